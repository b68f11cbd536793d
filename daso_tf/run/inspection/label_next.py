"""Which unlabeled pictures a person should label next."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from daso_tf.data import reading
from daso_tf.data.identity import Identity
from daso_tf.platform.files import write_atomically
from daso_tf.run.data_file import RunData
from daso_tf.run.inspection.answers import Network

_CANDIDATES = 20  # per picture that is chosen


class Candidates(NamedTuple):
    """The pictures whose labels are worth most, before near ones are told apart.

    Attributes:
        places: int64 `(M,)`, their places among the unlabeled pictures.
        worth: float `(M,)` of at least 0.
        features: float `(M, D)`.
        probabilities: float `(M, K)`.
    """

    places: np.ndarray
    worth: np.ndarray
    features: np.ndarray
    probabilities: np.ndarray

    def best(self, count: int) -> Candidates:
        """Returns those that are worth most."""
        order = np.argsort(-self.worth, kind="stable")[:count]
        return Candidates(*(array[order] for array in self))


def worth_of(probabilities: np.ndarray, labeled_counts: Sequence[int]) -> np.ndarray:
    """Returns what the label of each picture is worth.

    It is large where the two most probable classes are close, and where the picture is probably of
    a class with few labeled pictures.

    Args:
        probabilities: float `(N, K)`.
        labeled_counts: Labeled pictures of each class, K numbers, each at least 1.

    Returns:
        float `(N,)` in [0, 1].

    Example:

    >>> worth_of(np.array([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]]), [16, 1]).round(3).tolist()
    [0.625, 0.065, 0.185]
    """
    counts = np.asarray(labeled_counts, np.float64)
    rarity = np.sqrt(counts.min() / counts)
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    return (1 - (first - second)) * (probabilities @ rarity)


def choose(candidates: Candidates, count: int, labeled: np.ndarray) -> np.ndarray:
    """Chooses pictures that are worth much and differ from each other.

    One after another, it takes the picture with the largest product of its worth and of its
    distance to the nearest picture that is labeled or chosen. So a near copy is not taken.

    Args:
        candidates: At least `count` pictures.
        count: How many are chosen.
        labeled: float `(L, D)`, the features of the labeled pictures.

    Returns:
        int64 `(count,)`, positions among the candidates, the first choice first.

    Example:

    >>> features = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    >>> candidates = Candidates(np.arange(3), np.array([0.9, 0.8, 0.5]), features, np.eye(3))
    >>> choose(candidates, 2, labeled=np.array([[-1.0, -1.0]])).tolist()
    [0, 2]
    """
    features, known = map(_normalized, (candidates.features, labeled))
    nearest = np.concatenate(
        [
            (block @ known.T).max(axis=1)
            for block in np.array_split(features, len(features) // 1000 + 1)
        ]
    )
    chosen: list[int] = []
    for _ in range(count):
        gain = candidates.worth * (1 - nearest)
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
        nearest = np.maximum(nearest, features @ features[chosen[-1]])
    return np.array(chosen, np.int64)


def write_next(path: Path, network: Network, run_data: RunData, count: int) -> None:
    """Writes a list of all pictures, those to label first.

    It is a label file of `image_list`: once a person has filled in labels, the next run learns from
    it. A row that is left without a label stays an unlabeled picture.

    Args:
        path: The CSV file.
        network: The averaged network of the run.
        run_data: The data of the run.
        count: How many pictures are to be labeled, at most as many as there are unlabeled ones.

    Raises:
        OSError: If the file cannot be written.
    """
    data = run_data.data
    with reading(data):
        labeled = network.all_of(data.labeled)
        kept: Candidates | None = None
        for answers in network.batches(data.unlabeled):
            probabilities = softmax(answers.logits, axis=1)
            worth = worth_of(probabilities, data.labeled_counts.tolist())
            new = Candidates(answers.positions, worth, answers.features, probabilities)
            joint = (
                new
                if kept is None
                else Candidates(*map(np.concatenate, zip(kept, new, strict=True)))
            )
            kept = joint.best(_CANDIDATES * count)
    assert kept is not None
    chosen = choose(kept, min(count, len(kept.places)), labeled.features)
    guesses = {
        int(kept.places[place]): (
            data.class_names[kept.probabilities[place].argmax()],
            f"{kept.probabilities[place].max():.4f}",
        )
        for place in chosen
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", "part", "guess", "confidence"])
    writer.writerows(_rows(run_data.identity, guesses))
    content = text.getvalue().encode("utf-8", errors="surrogateescape")
    write_atomically(path, lambda file: file.write(content))


def _rows(identity: Identity, guesses: dict[int, tuple[str, str]]) -> Iterator[Iterable[str]]:
    """Yields the rows of the pictures to label, in the order of `guesses`, then all others."""
    names = identity.parts["unlabeled"].names
    for place, guess in guesses.items():
        yield names[place], "", "", *guess
    for part, images in identity.parts.items():
        in_list = "train" if part == "labeled" else part
        for place, (name, label) in enumerate(zip(images.names, images.labels, strict=True)):
            if part == "unlabeled" and place in guesses:
                continue
            if part == "unlabeled" and label < 0:  # a label that a person fills in counts
                yield name, "", "", "", ""
            else:
                yield name, identity.class_names[label] if label >= 0 else "", in_list, "", ""


def _normalized(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)
