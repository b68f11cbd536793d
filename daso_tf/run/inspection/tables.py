"""The tables of the unlabeled and of the labeled pictures: what the network says about each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from daso_tf.data import ImageFiles, Images, Rows
from daso_tf.open_set import OpenSet
from daso_tf.run.inspection.answers import Answers, Network
from daso_tf.run.inspection.folds import OutOfFold
from daso_tf.run.inspection.neighbors import Neighbors
from daso_tf.run.inspection.pictures import Pictures
from daso_tf.run.inspection.rows import Row, write_both
from daso_tf.run.inspection.unknown import unknown_scores

_OF_ALL = ("class", "confidence", "margin", "entropy")
_NEAR = (
    "nearest_prototype",
    "prototype_similarity",
    "nearest_labeled",
    "nearest_labeled_class",
    "nearest_labeled_similarity",
)
UNLABELED = (
    "path",
    *_OF_ALL,
    "final",
    "linear",
    "semantic",
    "taught_weight",
    *_NEAR,
    "unknown_score",
    "unknown",
)
LABELED = ("path", "label", *_OF_ALL, "label_probability", "suspected", "fold", *_NEAR)
SAMPLE = 10_000  # unlabeled pictures from which class shares are estimated


class Seen(NamedTuple):
    """A few numbers about every unlabeled picture that could be read.

    Attributes:
        places: int64 `(N,)`, its place among all unlabeled pictures.
        classes: int `(N,)`, the class that the exported model predicts.
        confidence: float32 `(N,)`, its probability.
        unknown: float32 `(N,)`, the unknown score.
        weights: float32 `(N,)`, how strongly it is taught; nan where that is not known.
        sample: The `Answers` about at most `SAMPLE` pictures, evenly spread.
    """

    places: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    unknown: np.ndarray
    weights: np.ndarray
    sample: Answers


def write_unlabeled(
    path: Path,
    network: Network,
    images: Images | ImageFiles | Rows,
    pictures: Pictures,
    labeled: Pictures,
    neighbors: Neighbors,
    class_names: Sequence[str],
    score: OpenSet,
) -> Seen:
    """Writes the table of the unlabeled pictures, batch by batch.

    Args:
        path: The files to write, without their endings.
        network: What is asked.
        images: The unlabeled pictures as it takes them: with a frozen encoder, their features.
        pictures: The unlabeled pictures as people see them.
        labeled: The labeled pictures.
        neighbors: Their features.
        class_names: K names.
        score: Computes the unknown scores. Without a limit, it stays open which pictures are
            unknown.

    Returns:
        What was `Seen`.

    Raises:
        OSError: If a file cannot be written.
    """
    seen: list[tuple[np.ndarray, ...]] = []
    sample: list[Answers] = []
    step = -(-len(pictures) // SAMPLE)

    def rows() -> Iterator[Row]:
        for answers in network.batches(images):
            unknown = unknown_scores(score, answers)
            taught = network.taught(answers)
            weights = np.full(len(unknown), np.nan)
            kinds: dict[str, Iterable[str | None]] = dict.fromkeys(
                ("final", "linear", "semantic"), [None] * len(unknown)
            )
            if taught is not None:
                weights = weights if taught.weights is None else taught.weights
                for kind in kinds:
                    kinds[kind] = _names(getattr(taught, kind), class_names)
            classes, columns = _of_all(softmax(answers.logits, axis=1), class_names)
            columns |= kinds | _near(neighbors, answers.features, None, labeled, class_names)
            columns |= {
                "path": [pictures.names[position] for position in answers.positions],
                "taught_weight": [None if np.isnan(w) else float(w) for w in weights],
                "unknown_score": unknown.tolist(),
                "unknown": score.is_unknown(unknown).numpy().tolist()
                if score.has_limit
                else [None] * len(unknown),
            }
            confidence = np.array(columns["confidence"])
            seen.append((answers.positions, classes, confidence, unknown, weights))
            chosen = answers.positions % step == 0
            sample.append(Answers(*(array[chosen] for array in answers)))
            yield from _by_row(columns)

    write_both(path, UNLABELED, rows())
    places, classes, confidence, unknown, weights = map(np.concatenate, zip(*seen, strict=True))
    return Seen(
        places,
        classes,
        confidence.astype(np.float32),
        unknown,
        weights.astype(np.float32),
        Answers(*map(np.concatenate, zip(*sample, strict=True))),
    )


def write_labeled(
    path: Path,
    answers: Answers,
    out_of_fold: OutOfFold,
    suspected: np.ndarray,
    pictures: Pictures,
    neighbors: Neighbors,
    class_names: Sequence[str],
) -> None:
    """Writes the table of the labeled pictures, with predictions that have not seen the label.

    Args:
        path: The files to write, without their endings.
        answers: Those about all labeled pictures.
        out_of_fold: The predictions.
        suspected: int `(L,)`, the class that each seems to be of; -1 where the label seems right.
        pictures: They themselves.
        neighbors: Their features.
        class_names: K names.

    Raises:
        OSError: If a file cannot be written.
    """
    labels = pictures.labels
    _, columns = _of_all(out_of_fold.probabilities, class_names)
    columns |= _near(neighbors, answers.features, np.arange(len(labels)), pictures, class_names)
    columns |= {
        "path": pictures.names,
        "label": _names(labels, class_names),
        "label_probability": out_of_fold.probabilities[np.arange(len(labels)), labels].tolist(),
        "suspected": _names(suspected, class_names),
        "fold": out_of_fold.fold.tolist(),
    }
    write_both(path, LABELED, _by_row(columns))


def _of_all(
    probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, dict[str, Iterable]]:
    """Returns the predicted classes and the columns that follow from probabilities alone."""
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    entropy = (probabilities * surprise).sum(axis=1) / np.log(probabilities.shape[1])
    classes = probabilities.argmax(axis=1)
    return classes, {
        "class": _names(classes, class_names),
        "confidence": first.tolist(),
        "margin": (first - second).tolist(),
        "entropy": entropy.tolist(),
    }


def _near(
    neighbors: Neighbors,
    features: np.ndarray,
    own: np.ndarray | None,
    labeled: Pictures,
    class_names: Sequence[str],
) -> dict[str, Iterable]:
    blocks = range(0, len(features), 1000)  # so that the similarities of all need no memory
    found = [
        neighbors(features[b : b + 1000], None if own is None else own[b : b + 1000])
        for b in blocks
    ]
    prototype, prototype_similarity, nearest, similarity = map(
        np.concatenate, zip(*found, strict=True)
    )
    columns = (
        _names(prototype, class_names),
        prototype_similarity.tolist(),
        [labeled.names[place] for place in nearest],
        _names(labeled.labels[nearest], class_names),
        similarity.tolist(),
    )
    return dict(zip(_NEAR, columns, strict=True))


def _names(classes: np.ndarray, class_names: Sequence[str]) -> list[str | None]:
    return [class_names[k] if k >= 0 else None for k in classes.tolist()]


def _by_row(columns: dict[str, Iterable]) -> Iterator[Row]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))
