"""The figures of DASO's paper, and the settings of the runs that they belong to.

Test accuracy in %, mean and standard deviation of three seeds: Oh, Kim and Kweon, "DASO", CVPR 2022
(arXiv 2106.05682). `published` finds the figure of a run, if its settings are those of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """One figure of the paper.

    Attributes:
        table: Where it is, such as "Table 1".
        settings: The settings of its data and method, by flag.
        value: The figure.
    """

    table: str
    settings: dict[str, Any]
    value: str


# What a method's settings are where a row does not say so.
_METHOD = {
    "pseudo_labeler": "linear",
    "logit_adjustment": 0.0,
    "test_logit_adjustment": 0.0,
    "supervised_loss": "cross_entropy",
    "balanced_head": "none",
    "threshold": "fixed",
}
# What all runs on CIFAR and STL-10 share.
_COMMON = {"encoder": "wrn_28_2", "resolution": 32, "batch_size": 64, "steps": 250_000}


def _cifar(
    classes: int, imbalance: float, labeled: int, unlabeled: int, of_unlabeled: str = "same"
) -> dict[str, Any]:
    return {
        "dataset": f"cifar{classes}",
        "labeled_head": labeled,
        "labeled_imbalance": float(imbalance),
        "unlabeled_head": unlabeled,
        "unlabeled_imbalance": 1.0 if of_unlabeled == "uniform" else float(imbalance),
        "reverse_unlabeled": of_unlabeled == "reversed",
    }


def _stl(imbalance: float, labeled: int) -> dict[str, Any]:
    return {"dataset": "stl10", "labeled_head": labeled, "labeled_imbalance": float(imbalance)}


_TABLE_1 = (
    *(_cifar(10, g, n, m) for g in (100, 150) for n, m in ((500, 4000), (1500, 3000))),
    *(_cifar(100, g, n, m) for g in (10, 20) for n, m in ((50, 400), (150, 300))),
)
_TABLE_2 = (
    *(
        _cifar(10, 100, n, m, of)
        for of in ("uniform", "reversed")
        for n, m in ((500, 4000), (1500, 3000))
    ),
    *(_stl(g, n) for g in (10, 20) for n in (150, 450)),
)
_TABLE_3 = (
    _cifar(10, 100, 1500, 3000),
    _cifar(10, 100, 1500, 3000, "uniform"),
    _cifar(100, 10, 150, 300),
    _stl(10, 450),
)
_TABLE_11 = (
    _cifar(10, 100, 500, 4000),
    _cifar(10, 100, 1500, 3000),
    _cifar(100, 10, 50, 400),
    _cifar(100, 10, 150, 300),
    _stl(10, 150),
    _stl(10, 450),
)
_TABLE_14 = (
    _cifar(10, 100, 1500, 3000),
    _cifar(10, 150, 1500, 3000),
    _cifar(100, 10, 150, 300),
    _cifar(100, 20, 150, 300),
)
_STL = tuple(_stl(g, n) for g in (10, 20) for n in (150, 450))
_REMIXMATCH = (
    _cifar(10, 100, 500, 4000),
    _cifar(10, 150, 500, 4000),
    _cifar(100, 10, 50, 400),
    _cifar(100, 20, 50, 400),
    _stl(10, 150),
    _stl(20, 150),
)

_FIXMATCH = {"learner": "fixmatch"}
_LA = {"learner": "fixmatch", "logit_adjustment": 1.0}
_ABC = {"learner": "fixmatch", "balanced_head": "abc"}
_CB = {"learner": "fixmatch", "supervised_loss": "class_balanced"}
_TEST_LA = {"learner": "fixmatch", "test_logit_adjustment": 1.0}
_LDAM = {"learner": "supervised", "supervised_loss": "ldam", "ldam_scale": 30.0}
_DASO, _DARP, _CREST, _CREST_PLUS = (
    {"pseudo_labeler": name} for name in ("daso", "darp", "crest", "crest_plus")
)

# (table, settings of the columns, settings of the method, figures of the columns)
_ROWS = (
    ("Table 1", _TABLE_1, {"learner": "supervised"},
     "47.3±.95 61.9±.41 44.2±.33 58.2±.29 29.6±.57 46.9±.22 25.1±1.14 41.2±.15"),
    ("Table 1", _TABLE_1, {"learner": "supervised", "logit_adjustment": 1.0},
     "53.3±.44 70.6±.21 49.5±.40 67.1±.78 30.2±.44 48.7±.89 26.5±1.31 44.1±.42"),
    ("Table 1", _TABLE_1, _FIXMATCH,
     "67.8±1.13 77.5±1.32 62.9±.36 72.4±1.03 45.2±.55 56.5±.06 40.0±.96 50.7±.25"),
    ("Table 1", _TABLE_1, _FIXMATCH | _DARP,
     "74.5±.78 77.8±.63 67.2±.32 73.6±.73 49.4±.20 58.1±.44 43.4±.87 52.2±.66"),
    ("Table 1", _TABLE_1, _FIXMATCH | _CREST_PLUS,
     "76.3±.86 78.1±.42 67.5±.45 73.7±.34 44.5±.94 57.4±.18 40.1±1.28 52.1±.21"),
    ("Table 1", _TABLE_1, _FIXMATCH | _DASO,
     "76.0±.37 79.1±.75 70.1±1.81 75.1±.77 49.8±.24 59.2±.35 43.6±.09 52.9±.42"),
    ("Table 1", _TABLE_1, _LA,
     "75.3±2.45 82.0±.36 67.0±2.49 78.0±.91 47.3±.42 58.6±.36 41.4±.93 53.4±.32"),
    ("Table 1", _TABLE_1, _LA | _DARP,
     "76.6±.92 80.8±.62 68.2±.94 76.7±1.13 50.5±.78 59.9±.32 44.4±.65 53.8±.43"),
    ("Table 1", _TABLE_1, _LA | _CREST_PLUS,
     "76.7±1.13 81.1±.57 70.9±1.18 77.9±.71 44.0±.21 57.1±.55 40.6±.55 52.3±.20"),
    ("Table 1", _TABLE_1, _LA | _DASO,
     "77.9±.88 82.5±.08 70.1±1.68 79.0±2.23 50.7±.51 60.6±.71 44.1±.61 55.1±.72"),
    ("Table 1", _TABLE_1, _ABC,
     "78.9±.82 83.8±.36 66.5±.78 80.1±.45 47.5±.18 59.1±.21 41.6±.83 53.7±.55"),
    ("Table 1", _TABLE_1, _ABC | _DASO,
     "80.1±1.16 83.4±.31 70.6±.80 80.4±.56 50.2±.62 60.0±.32 44.5±.25 55.3±.53"),
    ("Table 2", _TABLE_2, _FIXMATCH,
     "73.0±3.81 81.5±1.15 62.5±.94 71.8±1.70 56.1±2.32 72.4±.71 47.6±4.87 64.0±2.27"),
    ("Table 2", _TABLE_2, _FIXMATCH | _DARP,
     "82.5±.75 84.6±.34 70.1±.22 80.0±.93 66.9±1.66 75.6±.45 59.9±2.17 72.3±.60"),
    ("Table 2", _TABLE_2, _FIXMATCH | _CREST,
     "83.2±1.67 87.1±.28 70.7±2.02 80.8±.39 61.7±2.51 71.6±1.17 57.1±3.67 68.6±.88"),
    ("Table 2", _TABLE_2, _FIXMATCH | _CREST_PLUS,
     "82.2±1.53 86.4±.42 62.9±1.39 72.9±2.00 61.2±1.27 71.5±.96 56.0±3.19 68.5±1.88"),
    ("Table 2", _TABLE_2, _FIXMATCH | _DASO,
     "86.6±.84 88.8±.59 71.0±.95 80.3±.65 70.0±1.19 78.4±.80 65.7±1.78 75.3±.44"),
    ("STL-10 with LA and ABC", _STL, _LA, "64.4±1.35 75.9±1.25 51.5±3.23 67.4±1.04"),
    ("STL-10 with LA and ABC", _STL, _LA | _DASO, "71.7±1.09 79.0±.58 65.6±1.43 75.8±.81"),
    ("STL-10 with LA and ABC", _STL, _ABC, "66.3±1.00 77.1±.56 59.3±2.66 73.0±.91"),
    ("STL-10 with LA and ABC", _STL, _ABC | _DASO, "69.6±.94 77.9±.89 64.5±2.81 74.7±.16"),
    ("Table 3", _TABLE_3, {"learner": "mean_teacher"}, "68.6±.88 46.4±.98 52.1±.09 54.6±1.17"),
    ("Table 3", _TABLE_3, {"learner": "mean_teacher"} | _DASO,
     "70.7±.59 87.6±.27 52.5±.37 78.4±.80"),
    ("Table 3", _TABLE_3, {"learner": "mixmatch"}, "65.7±.23 35.7±.69 54.2±.47 52.7±1.42"),
    ("Table 3", _TABLE_3, {"learner": "mixmatch"} | _DASO, "70.9±1.91 73.4±2.05 55.6±.49 68.4±.71"),
    ("Table 3", _TABLE_3, {"learner": "remixmatch"}, "77.0±.55 60.4±.70 61.5±.57 71.9±.86"),
    ("Table 3", _TABLE_3, {"learner": "remixmatch"} | _DASO, "80.2±.68 90.5±.35 62.1±.69 80.9±.55"),
    ("ReMixMatch", _REMIXMATCH, {"learner": "remixmatch"},
     "70.9±2.37 64.7±.95 52.3±.91 46.5±.30 54.4±2.15 46.5±1.93"),
    ("ReMixMatch", _REMIXMATCH, {"learner": "remixmatch"} | _DARP,
     "72.2±2.72 65.7±1.20 52.8±.65 47.0±.17 61.2±2.62 59.5±2.56"),
    ("ReMixMatch", _REMIXMATCH, {"learner": "remixmatch"} | _CREST_PLUS,
     "75.6±1.60 65.9±2.20 49.9±.80 44.5±1.04 64.1±1.68 49.2±.90"),
    ("ReMixMatch", _REMIXMATCH, {"learner": "remixmatch"} | _DASO,
     "76.8±.81 68.5±.98 53.6±.81 47.8±.69 75.0±.95 68.5±5.14"),
    ("Table 11", _TABLE_11, _LDAM,
     "50.1±1.55 65.7±1.49 28.4±.32 46.2±.46 41.8±3.05 62.1±1.39"),
    ("Table 11", _TABLE_11, {"learner": "crt"},
     "49.5±1.05 65.8±.47 30.1±.50 48.0±.43 40.8±1.95 61.6±1.83"),
    ("Table 11", _TABLE_11, {"learner": "pseudo_label"},
     "47.8±1.06 63.4±.81 30.7±.18 47.8±.40 42.3±.83 60.4±1.11"),
    ("Table 11", _TABLE_11, {"learner": "usadtm"},
     "72.9±.74 73.3±.39 48.7±1.00 58.2±.79 68.9±1.83 77.1±.74"),
    ("Table 11", _TABLE_11, _CB, "72.2±1.28 80.9±1.52 46.0±.27 58.3±.46 58.9±2.79 74.7±.55"),
    ("Table 11", _TABLE_11, _CB | _DASO, "77.3±.86 81.2±.77 50.3±.18 60.1±.12 70.2±1.05 77.8±.58"),
    ("Table 14", _TABLE_14, _TEST_LA, "82.8±1.43 79.2±1.15 58.7±.63 53.3±.43"),
    ("Table 14", _TABLE_14, _TEST_LA | _CREST_PLUS, "82.9±.24 80.3±.56 57.8±.47 53.3±.83"),
    ("Table 14", _TABLE_14, _TEST_LA | _DASO, "84.5±.55 81.8±.83 60.5±.49 55.2±.47"),
)  # fmt: skip

_SEMI_AVES = (
    ({"learner": "supervised"}, "41.7±.32"),
    (_FIXMATCH, "53.8±.13 46.1±.50"),
    (_FIXMATCH | _DARP, "52.1±.48 46.4±.61"),
    (_FIXMATCH | _CREST, "52.2±.27 43.6±.68"),
    (_FIXMATCH | _CREST_PLUS, "53.8±.38 45.2±1.00"),
    (_FIXMATCH | _DASO, "54.6±.12 47.9±.38"),
)


def cells() -> Iterator[Cell]:
    """Yields every figure of the paper's tables."""
    for table, columns, method, row in _ROWS:
        for data, value in zip(columns, row.split(), strict=True):
            yield Cell(table, _COMMON | _METHOD | data | method, value)
    for method, row in _SEMI_AVES:
        for unlabeled, value in zip(("in", "in+out"), row.split(), strict=False):
            allowed = (None, "in") if unlabeled == "in" else unlabeled  # "in" is the default
            data = {"dataset": "semi_aves", "labeled": "l_train_val", "unlabeled": allowed}
            yield Cell("Table 4", _METHOD | data | method, value)


def published(settings: Mapping[str, Any]) -> Cell | None:
    """Returns the figure of the paper that belongs to a run.

    Args:
        settings: The settings of the run, by flag.

    Returns:
        The cell whose settings are all those of the run; None where there is none.
    """
    for cell in cells():
        if all(_fits(settings[name], value) for name, value in cell.settings.items()):
            return cell
    return None


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, tuple) else value == wanted
