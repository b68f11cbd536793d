"""The charts of the page, as SVG pictures in data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from daso_tf.data.text import printable
from daso_tf.run.report import marker_of
from daso_tf.step.calibration import Reliability
from daso_tf.step.class_shares import Estimate

MOST_CLASSES = 30  # in a chart with a bar for each
_COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0")
# Text stays text, so that the file is small; the salt makes equal charts equal files.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "daso_tf", "font.family": "sans-serif"}


class Chart(NamedTuple):
    """A chart.

    Attributes:
        title: Its heading.
        alt: What it shows, for those who cannot see it.
        uri: The picture as a data URI.
    """

    title: str
    alt: str
    uri: str


def over_steps(evaluations: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Draws the balanced accuracy over the steps; None where none was measured.

    Args:
        evaluations: Those of `daso_tf.run.results.Results`.
    """
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    texts = []
    for part, color in (("test", _COLORS[0]), ("validation", _COLORS[1])):
        measured = [entry for entry in evaluations if entry.get(part)]
        if not measured:
            continue
        steps = [entry["step"] for entry in measured]
        for dashes, name, of in (
            ("-", part, [entry[part] for entry in measured]),
            ("--", f"{part}, logit-adjusted", [e[part]["logit_adjusted"] for e in measured]),
        ):
            shares = [100 * entry["balanced_accuracy"] for entry in of]
            axes.plot(steps, shares, dashes, color=color, label=name, marker=marker_of(steps))
        last = 100 * measured[-1][part]["balanced_accuracy"]
        texts.append(f"{part} {last:.1f} % after step {steps[-1]:,}")
    if not texts:
        return None
    axes.set(xlabel="step", ylabel="balanced accuracy in %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    alt = f"Line chart of the balanced accuracy over the steps: {'; '.join(texts)}."
    return _chart("Accuracy over the steps", alt, figure)


def of_runs(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Chart | None:
    """Draws the balanced accuracy of several runs over the steps; None where none was measured.

    Args:
        runs: The name and the evaluations of each.
    """
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    texts = []
    for number, (name, evaluations) in enumerate(runs):
        for part in ("test", "validation"):
            measured = [entry for entry in evaluations if entry.get(part)]
            if measured:
                break
        else:
            continue
        steps = [entry["step"] for entry in measured]
        shares = [100 * entry[part]["balanced_accuracy"] for entry in measured]
        color, dashes = _COLORS[number % len(_COLORS)], ("-", "--", ":")[number // len(_COLORS) % 3]
        label = f"{name}, {part}"
        axes.plot(steps, shares, dashes, color=color, label=label, marker=marker_of(steps))
        texts.append(f"{name} {shares[-1]:.1f} % after step {steps[-1]:,}")
    if not texts:
        return None
    axes.set(xlabel="step", ylabel="balanced accuracy in %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    legend = axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)
    alt = f"Line chart of the balanced accuracy over the steps: {'; '.join(texts)}."
    return _chart("Accuracy over the steps, without logit adjustment", alt, figure)


def calibration(points: Reliability) -> Chart:
    """Draws a reliability diagram.

    Args:
        points: Its points.
    """
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="#888", linewidth=1, label="perfect")
    axes.plot(
        100 * points.confidence, 100 * points.accuracy, "o-", color=_COLORS[0], label="measured"
    )
    axes.set(
        xlabel="confidence in %", ylabel="right in %", xlim=(0, 102), ylim=(0, 102), aspect="equal"
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    alt = (
        "Reliability diagram: how often predictions are right, over their confidence. On average "
        f"the two differ by {100 * points.error:.1f} points."
    )
    return _chart("Reliability", alt, figure)


def class_shares(
    class_names: Sequence[str], labeled_counts: Sequence[int], shares: Estimate
) -> Chart | None:
    """Draws the shares of the classes among labeled and unlabeled pictures.

    Args:
        class_names: K names.
        labeled_counts: K numbers.
        shares: The `Estimate` `(K,)` for the unlabeled pictures.

    Returns:
        The chart; None for more than `MOST_CLASSES`.
    """
    count = len(class_names)
    if count > MOST_CLASSES:
        return None
    figure = Figure(figsize=(6, 1 + 0.32 * count), layout="constrained")
    axes = figure.subplots()
    places = np.arange(count)
    labeled = 100 * np.asarray(labeled_counts) / np.sum(labeled_counts)
    axes.barh(places - 0.2, labeled, 0.38, color="#bbb", label="labeled")
    value, low, high = (100 * array for array in shares)
    # The estimate may be outside the interval by rounding.
    ends = np.maximum([value - low, high - value], 0)
    axes.barh(places + 0.2, value, 0.38, xerr=ends, color=_COLORS[0], label="unlabeled, estimated")
    axes.set_yticks(places, [printable(name, 24) for name in class_names], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="share in %", xlim=(0, None))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    largest = ", ".join(
        f"{printable(class_names[k], 24)} {value[k]:.0f} %" for k in np.argsort(-value)[:3]
    )
    alt = (
        "Bar chart of the share of each class among labeled pictures, and among unlabeled pictures "
        f"as estimated, with intervals. The largest unlabeled classes: {largest}."
    )
    return _chart("Shares of the classes", alt, figure)


def _chart(title: str, alt: str, figure: Figure) -> Chart:
    content = io.BytesIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context(_STYLE):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(content.getvalue()).decode()
    return Chart(title, alt, f"data:image/svg+xml;base64,{data}")
