"""Runs side by side: what their files say of their accuracy, calibration and settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import daso_tf
from daso_tf.data.text import printable
from daso_tf.platform.files import write_atomically
from daso_tf.run import data_file
from daso_tf.run.inspection import charts
from daso_tf.run.inspection.accuracy import wilson
from daso_tf.run.inspection.page import duration, rendered, with_interval
from daso_tf.run.of_folder import settings_of
from daso_tf.run.results import Results
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings
from daso_tf.step.calibration import class_groups
from daso_tf.step.class_shares import Estimate, interval_of

_RESAMPLES = 2000
# Where files are says nothing about a run.
_OF_NO_INTEREST = {"model_dir", "export_dir", "cache_dir"}
_PARTS = ("test", "validation")


class Scored(NamedTuple):
    """What the files of a run say.

    Attributes:
        name: What it is called: its folder, as far as it differs from the others.
        folder: Its folder.
        settings: Its settings, completed.
        results: Its evaluations.
        evaluated: A fingerprint of the pictures on which it was evaluated.
        part: "test", or else "validation".
        step: The step of the scores: that of the export, or else the last one.
        accuracy: An `Estimate`, a scalar in [0, 1]; so are the next two.
        balanced: The mean recall of the classes that have pictures.
        groups: By the name of each of the `class_groups`, its mean recall.
        recall: An `Estimate` `(K,)`; nan for a class without pictures.
        drawn: float `(resamples,)`, the balanced accuracy of each resample.
        calibration: What `daso_tf.step.calibration.calibration` measures; None where it was not.
    """

    name: str
    folder: Path
    settings: Settings
    results: Results
    evaluated: str
    part: str
    step: int
    accuracy: Estimate
    balanced: Estimate
    groups: dict[str, Estimate]
    recall: Estimate
    drawn: np.ndarray
    calibration: dict[str, Any] | None


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        key: Names it in the page.
        title: Its heading.
        caption: What it shows.
        columns: The names of the columns.
        rows: A text for each column.
    """

    key: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def scored(folders: Sequence[Path]) -> list[Scored]:
    """Reads what the files of runs say; no data and no network is loaded.

    Args:
        folders: The folders of at least two runs.

    Raises:
        ValueError: If a folder is not that of a run with an evaluation on test or validation
            pictures, is given twice, or has damaged files.
        OSError: If a file cannot be read.
    """
    if len(folders) < 2:
        raise ValueError("--compare needs at least two runs: daso-tf report --compare RUN RUN ...")
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ValueError("--compare: a run is given twice; each must be another one")
    named = zip(folders, _names(resolved), strict=True)
    return [_scored(folder, name, seed) for seed, (folder, name) in enumerate(named)]


def write_comparison(path: Path, runs: Sequence[Scored]) -> None:
    """Writes runs side by side as one HTML file that needs no other file and no network.

    Args:
        path: The file.
        runs: The result of `scored`.

    Raises:
        OSError: If it cannot be written.
    """
    content = rendered(
        "side_by_side.html",
        title=f"{len(runs)} runs side by side",
        subtitle=f"Written by daso_tf {daso_tf.__version__}.",
        sentences=list(_sentences(runs)),
        tables=list(tables(runs)),
        chart=charts.of_runs([(printable(run.name), run.results.evaluations) for run in runs]),
    )
    write_atomically(path, lambda file: file.write(content))


def as_text_table(runs: Sequence[Scored]) -> str:
    """Returns the scores as a table for the terminal, a line per run."""
    scores = next(tables(runs))
    rows = [scores.columns, *scores.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def tables(runs: Sequence[Scored]) -> Iterator[Table]:
    """Yields the tables of the page: scores, calibration, classes, settings.

    Args:
        runs: The result of `scored`.
    """
    names = [printable(run.name) for run in runs]
    first = runs[0]
    groups = (
        list(first.groups) if all(run.groups.keys() == first.groups.keys() for run in runs) else []
    )
    thirds = groups if "head" in groups else []  # fewer classes are in the table of the classes
    yield Table(
        "scores",
        "Accuracy",
        "In percent, with intervals of 95 %. Balanced: the mean recall of the classes. Head, "
        "medium and tail are thirds of the classes by their number of labeled pictures. Change: of "
        "the balanced accuracy, compared with the first run.",
        [
            "run",
            "step",
            "pictures",
            "accuracy %",
            "balanced %",
            "change",
            *(f"{g} %" for g in thirds),
        ],
        [
            [
                name,
                f"{run.step:,}",
                run.part,
                with_interval(run.accuracy),
                with_interval(run.balanced),
                "" if run is first else _change(run, first),
                *(with_interval(run.groups[group]) for group in thirds),
            ]
            for name, run in zip(names, runs, strict=True)
        ],
    )
    measures = ("expected_calibration_error", "brier_score", "log_loss")
    yield Table(
        "calibration",
        "Calibration",
        "Whether the probabilities can be believed, without logit adjustment; 0 is best.",
        ["run", "expected calibration error", "Brier score", "log loss"],
        [
            [
                name,
                *(
                    "-" if run.calibration is None else _number(run.calibration[m])
                    for m in measures
                ),
            ]
            for name, run in zip(names, runs, strict=True)
        ],
    )
    if all(run.results.class_names == first.results.class_names for run in runs):
        yield Table(
            "classes",
            "Classes",
            "Recall in percent, with intervals of 95 %. Labeled: pictures of the first run.",
            ["class", "labeled", *names],
            [
                [
                    printable(of),
                    f"{first.results.labeled_counts[k]:,}",
                    *(with_interval(Estimate(*(array[k] for array in run.recall))) for run in runs),
                ]
                for k, of in enumerate(first.results.class_names)
            ],
        )
    yield Table(
        "settings",
        "Settings that differ",
        "All others are the same; flags.cfg of a run has all of them.",
        ["flag", *names],
        [
            [f"--{flag}", *(printable(as_text(run.settings[flag])) for run in runs)]
            for flag in sorted(TRAIN.keys() - _OF_NO_INTEREST)
            if len({as_text(run.settings[flag]) for run in runs}) > 1
        ]
        + [["training time", *(duration(run.folder) or "-" for run in runs)]],
    )


def _scored(folder: Path, name: str, seed: int) -> Scored:
    """Returns what the files of a run say; the seed makes its resamples its own."""
    settings = settings_of(folder)
    identity = data_file.identity_of(folder / data_file.NAME)
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no results.json, so there is nothing to compare.")
    count = len(identity.class_names)
    images_of = {name: part.counts(count) for name, part in identity.parts.items()}
    labeled = np.array(images_of["labeled"])
    results = Results(path, identity.class_names, labeled, None)
    if not results.evaluations:
        raise ValueError(f"{folder} has no evaluation yet, so there is nothing to compare.")
    last = results.evaluations[-1]
    exported = results.exported or last
    of_step = results.at(exported["step"]) or last
    part = next((part for part in _PARTS if exported.get(part)), None)
    if part is None or images_of.get(part) is None:
        raise ValueError(
            f"{folder} was not evaluated on test or validation pictures; --compare needs them."
        )
    images = np.array(images_of[part])
    shares = np.array([np.nan if r is None else r for r in exported[part]["recall"]], float)
    hits = np.rint(np.nan_to_num(shares) * images).astype(int)
    # To draw pictures within their class is to draw their number of hits.
    rng = np.random.default_rng(seed)
    chance = hits / np.maximum(images, 1)
    drawn = rng.binomial(images, chance, (_RESAMPLES, len(images)))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, of_drawn = hits / images, drawn / images
    there = images > 0

    def mean(classes: np.ndarray) -> Estimate:
        some = classes[there[classes]]
        if not len(some):
            return Estimate(*map(np.asarray, (math.nan,) * 3))
        return interval_of(recall[some].mean(), of_drawn[:, some].mean(axis=1))

    everything = np.arange(len(images))
    by_class = wilson(hits, images)
    return Scored(
        name,
        folder,
        settings,
        results,
        identity.evaluated,
        part,
        exported["step"],
        interval_of(hits.sum() / images.sum(), drawn.sum(axis=1) / images.sum()),
        mean(everything),
        {
            group: mean(np.array(classes, int))
            for group, classes in class_groups(labeled.tolist()).items()
        },
        by_class,
        of_drawn[:, there].mean(axis=1),
        (of_step.get(part) or {}).get("calibration"),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of paths that differ from each other."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        ends = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(ends)) == len(ends):
            return ends
    return list(map(str, folders))


def _change(run: Scored, first: Scored) -> str:
    difference = interval_of(run.balanced.value - first.balanced.value, run.drawn - first.drawn)
    return (
        f"{100 * difference.value:+.1f} "
        f"({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    )


def _sentences(runs: Sequence[Scored]) -> Iterator[str]:
    """Yields what the tables say, and what makes runs hard to compare."""
    best = max(runs, key=lambda run: float(run.balanced.value))
    others = [run for run in runs if run is not best]
    second = max(others, key=lambda run: float(run.balanced.value))
    difference = interval_of(best.balanced.value - second.balanced.value, best.drawn - second.drawn)
    clearly = "more than chance" if difference.low > 0 else "which may be chance"
    yield (
        f"{printable(best.name)} has the best balanced accuracy, {with_interval(best.balanced)} %: "
        f"{100 * difference.value:.1f} points above {printable(second.name)}, {clearly} in the "
        "choice of pictures. Another seed would change both, too: several runs of each show how "
        "much."
    )
    if len({run.part for run in runs}) > 1 or len({run.evaluated for run in runs}) > 1:
        yield (
            "These runs were evaluated on different pictures or classes, so their scores can "
            "hardly be compared."
        )
    if len({tuple(run.results.labeled_counts) for run in runs}) > 1:
        yield "They learned from different numbers of labeled pictures."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
