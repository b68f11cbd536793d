"""The report of a run as one HTML file that needs no other file and no network."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import daso_tf
from daso_tf.data.text import printable
from daso_tf.platform.files import write_atomically
from daso_tf.run.comparison import rows_of
from daso_tf.run.inspection import charts
from daso_tf.run.inspection.accuracy import Accuracy
from daso_tf.run.inspection.sheets import Sheet
from daso_tf.run.inspection.summary import Found, advice, sentences
from daso_tf.run.results import Results
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN, default_of
from daso_tf.settings.settings import Settings
from daso_tf.step.class_shares import Estimate

_MOST_CLASSES_IN_MATRIX = 20
_MOST_CONFUSIONS = 20
_PARTS = {"labeled": "out-of-fold labeled"}


def write_page(
    path: Path,
    settings: Settings,
    results: Results,
    found: Found,
    sheets: Sequence[Sheet],
    copies_note: str,
) -> None:
    """Writes the page.

    Args:
        path: The HTML file, in the folder of the run.
        settings: Those of the run, completed.
        results: Its evaluations.
        found: What was found out.
        sheets: The contact sheets.
        copies_note: Why copies were not searched; empty where they were.

    Raises:
        OSError: If it cannot be written.
    """
    accuracy = found.accuracy
    names = [printable(name) for name in found.class_names]
    drawn = [charts.over_steps(results.evaluations), charts.calibration(accuracy.reliability)]
    content = rendered(
        "page.html",
        title=f"Report of {printable(path.parent.resolve().name, 80)}",
        subtitle=f"Written by daso_tf {daso_tf.__version__} after step {found.step:,}.",
        sentences=list(sentences(found)),
        advice=list(advice(found)),
        part=_PARTS.get(accuracy.part, accuracy.part),
        held_out=_PARTS.get(found.held_out, found.held_out),
        classes=_classes(found, names, results.unlabeled_counts),
        shares_chart=found.shares.em
        and charts.class_shares(names, found.labeled_counts, found.shares.em),
        has_open_set=found.has_open_set,
        self_check=None if found.shares.em else _percent(found.shares.self_check),
        charts=[chart for chart in drawn if chart],
        comparisons=_comparisons(found),
        calibration=list(_calibration(accuracy, names)),
        confusions=_confusions(accuracy, names),
        sheets=sheets,
        copies_note=copies_note,
        versions=list(_versions(path.parent)),
        settings=list(_settings(settings)),
    )
    write_atomically(path, lambda file: file.write(content))


def rendered(template: str, **values: Any) -> bytes:
    """Fills in a template of this folder.

    Args:
        template: The name of its file.
        **values: What it shows.

    Returns:
        The content of an HTML file.
    """
    import jinja2  # here, as only reports need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(**values)
    return text.encode(
        "utf-8", errors="backslashreplace"
    )  # file names may have bytes that are no text


def duration(folder: Path) -> str:
    """Returns how long a run has trained, in words; empty where that is not known.

    Args:
        folder: The folder of the run.
    """
    seconds = training_seconds(folder)
    if not seconds:
        return ""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"


def with_interval(estimate: Estimate) -> str:
    """Returns a share in percent with its interval; "-" where it is not known.

    Args:
        estimate: Scalars in [0, 1].
    """
    value, low, high = (100 * float(number) for number in estimate)
    return "-" if np.isnan(value) else f"{value:.1f} ({low:.1f} to {high:.1f})"


def training_seconds(folder: Path) -> float:
    """Returns how long a run has trained, over all its parts.

    Each part has a file of TensorBoard events: its start is in its name, its end is when it was
    written last.

    Args:
        folder: The folder of the run.
    """
    total = 0.0
    for path in folder.glob("events.out.tfevents.*"):
        start = path.name.split(".")[3]
        if start.isdecimal():
            total += max(path.stat().st_mtime - int(start), 0)
    return total


def _classes(
    found: Found, names: Sequence[str], unlabeled_counts: Sequence[int] | None
) -> dict[str, list]:
    accuracy, shares = found.accuracy, found.shares
    columns: dict[str, list[str]] = {
        "class": list(names),
        "labeled": [f"{count:,}" for count in found.labeled_counts],
    }
    if unlabeled_counts:
        columns["unlabeled"] = [f"{count:,}" for count in unlabeled_counts]
    columns |= {
        "recall %": _intervals(accuracy.recall),
        "precision %": [_percent(share) for share in accuracy.precision],
        "predicted": [f"{count:,}" for count in found.predicted.tolist()],
    }
    if shares.em:
        columns["share %"] = _intervals(shares.em)
    if shares.matrix:
        columns["share % (matrix)"] = _intervals(shares.matrix)
    return {"columns": list(columns), "rows": list(zip(*columns.values(), strict=True))}


def _comparisons(found: Found) -> list[dict[str, Any]]:
    """Returns a table of the run and what it is compared with for each part."""
    content = found.comparison or {"parts": {}}
    tables = (rows_of(dict(content), part, found.labeled_counts) for part in content["parts"])
    return [{"columns": rows[0], "rows": rows[1:]} for rows in tables]


def _calibration(accuracy: Accuracy, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    measured = accuracy.calibration
    yield "expected calibration error", _number(measured["expected_calibration_error"])
    for group, error in measured["expected_calibration_error_of"].items():
        of = names[int(group)] if group.isdecimal() else group
        yield f"expected calibration error, predicted {of}", _number(error)
    yield "Brier score", _number(measured["brier_score"])
    yield "log loss", _number(measured["log_loss"])


def _confusions(accuracy: Accuracy, names: Sequence[str]) -> dict[str, Any]:
    """Returns the confusion matrix, or the most frequent confusions of many classes."""
    matrix = accuracy.confusion
    of_class = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    depths = np.round(0.75 * matrix / of_class, 2)
    part = _PARTS.get(accuracy.part, accuracy.part)
    if len(names) <= _MOST_CLASSES_IN_MATRIX:
        cells = [
            list(zip(map(str, row), depth, strict=True))
            for row, depth in zip(matrix.tolist(), depths.tolist(), strict=True)
        ]
        return {
            "caption": f"Numbers of {part} pictures. Row: the class; column: the prediction.",
            "columns": ["class", *names],
            "rows": [[name, *row] for name, row in zip(names, cells, strict=True)],
        }
    wrong = matrix - np.diag(matrix.diagonal())
    most = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = [divmod(place, len(names)) for place in most.tolist() if wrong.flat[place]]
    return {
        "caption": f"The most frequent mistakes among {part} pictures.",
        "columns": ["class", "predicted", "pictures", "of the class %"],
        "rows": [
            [
                names[of],
                (names[predicted], 0),
                (str(matrix[of, predicted]), 0),
                (_percent(matrix[of, predicted] / of_class[of, 0]), 0),
            ]
            for of, predicted in pairs
        ],
    }


def _versions(folder: Path) -> Iterator[tuple[str, str]]:
    yield "daso_tf", daso_tf.__version__
    yield "TensorFlow", tf.__version__
    yield "Keras", keras.__version__
    yield "NumPy", np.__version__
    yield "Python", platform.python_version()
    if time := duration(folder):
        yield "training", time


def _settings(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in sorted(TRAIN):
        value = settings[name]
        if value is not None and value != default_of(name, settings.learner):
            yield name, printable(as_text(value))


def _intervals(estimate: Estimate) -> list[str]:
    return [with_interval(Estimate(*ends)) for ends in zip(*estimate, strict=True)]


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f}"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
