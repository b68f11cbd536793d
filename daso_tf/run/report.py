"""The results of a run as a table in the terminal and as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from daso_tf.data.text import printable
from daso_tf.platform.files import write_atomically
from daso_tf.run.results import MEDIAN_OVER, Results

MOST_CLASSES_NAMED = 20  # on a picture's axis
LONGEST_NAME = 24  # of a class, in characters, in a picture


def table(results: Results) -> str:
    """Writes the result of a run as a table, one line per class, with summaries below.

    It is that of the exported model, or the last evaluation where nothing was exported yet.

    Args:
        results: Those of a run with at least one evaluation.

    Returns:
        Lines of text. Recall and precision are in percent, "-" where they are not known.
    """
    last = results.evaluations[-1]
    exported = results.exported or last
    unknown = [None] * len(results.class_names)
    columns = {
        "class": map(printable, results.class_names),
        "labeled": map(str, results.labeled_counts),
        "unlabeled": ["-" if n is None else str(n) for n in results.unlabeled_counts or unknown],
        "recall %": map(_percent, _evaluated(exported).get("recall", unknown)),
        **{
            f"pseudo-label {score} %": map(_percent, shares)
            for score, shares in _pseudo_labels(results.at(exported["step"]) or last).items()
        },
    }
    if assigned := _assigned(last):
        columns["pseudo-labels"] = map(str, assigned)
    rows = [tuple(columns), *zip(*columns.values(), strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *_summaries(results)])


def accuracy_line(part: str, scores: Mapping[str, Any]) -> str:
    """Writes the accuracies of an evaluation, as `daso_tf.run.results.evaluate` returns it."""
    adjusted = scores["logit_adjusted"]
    return (
        f"{part}: accuracy {_percent(scores['accuracy'])} %,"
        f" balanced {_percent(scores['balanced_accuracy'])} %;"
        f" logit-adjusted {_percent(adjusted['accuracy'])} %,"
        f" balanced {_percent(adjusted['balanced_accuracy'])} %"
    )


def draw(results: Results, path: Path) -> None:
    """Draws balanced accuracy over the steps, recall and pseudo-labels by class as a PNG.

    What cannot be drawn is left out with a note in the log: a picture never ends a training.

    Args:
        results: Those of a run with at least one evaluation.
        path: The PNG file to write.

    Raises:
        OSError: If it cannot be written.
    """
    picture = io.BytesIO()
    try:
        _figure(results).savefig(picture, format="png", dpi=100)
    except Exception as error:  # the name of a class or a font
        logging.warning("%s is not drawn (%s: %s).", path, type(error).__name__, error)
        return
    write_atomically(path, lambda file: file.write(picture.getvalue()))


def _figure(results: Results) -> Figure:
    """Draws a panel for each thing that is known."""
    last = results.evaluations[-1]
    recall, pseudo_labels, assigned = _evaluated(last), _pseudo_labels(last), _assigned(last)
    panels: list[Callable[[Axes, Results], None]] = []
    if results.medians():
        panels.append(_draw_over_steps)
    if recall:
        panels.append(partial(_draw_shares, title="Recall", series={"recall": recall["recall"]}))
    if assigned:
        panels.append(partial(_draw_counts, title="Pseudo-labels", counts=assigned))
    elif pseudo_labels:
        panels.append(partial(_draw_shares, title="Pseudo-labels", series=pseudo_labels))
    if compared := _compared(results):
        title = "What unlabeled images changed: recall"
        panels.append(partial(_draw_shares, title=title, series=compared))
    figure = Figure(figsize=(5 * max(len(panels), 1), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, draw_panel in enumerate(panels, start=1):
        draw_panel(figure.add_subplot(1, len(panels), place), results)
    return figure


def _compared(results: Results) -> dict[str, Any]:
    """Returns the recall of a run and of its twin, on test images or else validation images."""
    parts = (results.comparison or {}).get("parts", {})
    found = parts.get("test") or parts.get("validation") or {}
    named = {"run": "with unlabeled images", "labels_only": "labels only"}
    if not named.keys() <= found.keys():
        return {}
    return {text: found[name]["recall"] for name, text in named.items()}


def _evaluated(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores on the test images, or else on the validation images."""
    return evaluation.get("test") or evaluation.get("validation") or {}


def _pseudo_labels(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns recall and precision of the final pseudo-labels; nothing where there are none."""
    final = evaluation["pseudo_labels"].get("final", {})
    return {score: final[score] for score in ("recall", "precision") if final}


def _assigned(evaluation: Mapping[str, Any]) -> list[int]:
    """Returns how many pseudo-labels each class got, where it is not known whether they are right.

    Empty where it is known or there are none.
    """
    final = evaluation["pseudo_labels"].get("final", {})
    if any(share is not None for score in _pseudo_labels(evaluation).values() for share in score):
        return []
    return [round(count) for count in final.get("assigned", [])]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _percentages(shares: Sequence[float | None]) -> np.ndarray:
    return 100 * np.array(shares, dtype=float)


def _summaries(results: Results) -> Iterator[str]:
    """Yields lines per part: the exported model, the last evaluation, the median of the last few.

    The exported model has no line where it is that of the last evaluation.
    """
    last = results.evaluations[-1]
    exported = results.exported or last
    strength = exported.get("test_logit_adjustment", 0)
    best = " (the best on validation)" if exported.get("best") else ""
    if exported["step"] != last["step"] or strength or best:
        adjusted = f", logit adjustment {strength:g}" if strength else ""
        for part in ("test", "validation"):
            if scores := exported.get(part):
                yield (
                    f"exported model, step {exported['step']}{best}{adjusted}, {part}: accuracy"
                    f" {_percent(scores['accuracy'])} %, balanced"
                    f" {_percent(scores['balanced_accuracy'])} %"
                )
    count = min(MEDIAN_OVER, len(results.evaluations))
    for part, medians in results.medians().items():
        yield f"step {last['step']}, {accuracy_line(part, last[part])}"
        yield f"median of the last {count} evaluations, {accuracy_line(part, medians)}"


def marker_of(steps: Sequence[int]) -> str | None:
    """Returns the marker of a line over evaluations: a point where one alone makes no line."""
    return "o" if len(steps) == 1 else None


def _draw_over_steps(axes: Axes, results: Results) -> None:
    """Draws the balanced accuracy on every part that is evaluated."""
    for part in results.medians():
        evaluated = [entry for entry in results.evaluations if entry.get(part)]
        steps = [entry["step"] for entry in evaluated]
        for label, scores in (
            (part, [entry[part] for entry in evaluated]),
            (f"{part}, logit-adjusted", [entry[part]["logit_adjusted"] for entry in evaluated]),
        ):
            shares = [entry["balanced_accuracy"] for entry in scores]
            axes.plot(steps, _percentages(shares), label=label, marker=marker_of(steps))
    axes.set(title="Balanced accuracy of the EMA network", xlabel="step", ylabel="%")
    _add_legend(axes)


def _draw_shares(
    axes: Axes, results: Results, title: str, series: Mapping[str, Sequence[float | None]]
) -> None:
    """Draws one group of bars per class; series without known values are left out."""
    known = {
        label: shares for label, shares in series.items() if any(s is not None for s in shares)
    }
    width = 0.8 / max(len(known), 1)
    classes = np.arange(len(results.class_names))
    for index, (label, shares) in enumerate(known.items()):
        offset = (index - (len(known) - 1) / 2) * width
        axes.bar(classes + offset, _percentages(shares), width, label=label)
    axes.set(ylabel="%", ylim=(0, 100))
    _name_classes(axes, results, title)
    if len(known) > 1:
        _add_legend(axes)


def _draw_counts(axes: Axes, results: Results, title: str, counts: Sequence[int]) -> None:
    """Draws one bar per class."""
    axes.bar(np.arange(len(counts)), counts, 0.8)
    axes.set(ylabel="images")
    _name_classes(axes, results, title)


def _name_classes(axes: Axes, results: Results, title: str) -> None:
    axes.set(title=f"{title} by class (labeled images)", xlabel="class")
    classes = np.arange(len(results.class_names))
    if len(classes) <= MOST_CLASSES_NAMED:
        names = [
            f"{printable(name, LONGEST_NAME)}\n({count})"
            for name, count in zip(results.class_names, results.labeled_counts, strict=True)
        ]
        axes.set_xticks(classes, names, fontsize=8, parse_math=False)


def _add_legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.32), ncols=2)
