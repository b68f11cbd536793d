"""Which unlabeled pictures a person should label next."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from daso_tf.data import SemiSupervisedData, reading
from daso_tf.data.identity import Identity
from daso_tf.platform.files import write_atomically
from daso_tf.run.data_file import RunData
from daso_tf.run.inspection.answers import Network

_SAMPLE = 5000  # pictures among which is chosen, so that time and memory are bounded
_SHARPNESS = 4  # power of a cosine


class Candidates(NamedTuple):
    """Pictures among which is chosen: all, or a sample in which those that are worth more dominate.

    Attributes:
        places: int64 `(M,)`, their places among the unlabeled pictures.
        features: float `(M, F)`.
        probabilities: float `(M, K)`.
        worth: float `(M,)` of at least 0, what the label of each is worth.
        keys: float `(M,)`, random numbers that decide which are in a sample: exponential with the
            mean 1 / worth. A sample has the smallest ones.
    """

    places: np.ndarray
    features: np.ndarray
    probabilities: np.ndarray
    worth: np.ndarray
    keys: np.ndarray


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


def weights_of(worth: np.ndarray, largest_key: float) -> np.ndarray:
    """Returns weights whose sum over a sample estimates the sum of the worth over all pictures.

    Each worth is divided by the probability that its picture is in the sample (Horvitz-Thompson).

    Args:
        worth: float `(M,)` of at least 0.
        largest_key: The smallest key of a picture that is not in the sample; infinite if all are.

    Returns:
        float `(M,)`.

    Example:

    >>> weights_of(np.array([0.5, 0.1]), np.inf).tolist()
    [0.5, 0.1]
    >>> weights_of(np.array([0.5, 0.1]), 1e-3).round(3).tolist()
    [1000.25, 1000.05]
    """
    with np.errstate(invalid="ignore"):
        probability = -np.expm1(-worth * largest_key)
    return np.divide(worth, probability, out=np.zeros_like(worth), where=worth > 0)


def choose(
    features: np.ndarray, weights: np.ndarray, count: int, labeled: np.ndarray
) -> np.ndarray:
    """Chooses the pictures that represent all of them best (greedy facility location).

    A picture represents another one as well as they are similar: by the cosine of their features to
    the power of 4, 0 if the cosine is negative. One after another, it takes the picture that adds
    most to the sum over all pictures of their weight times their similarity to the nearest labeled
    or chosen one. So pictures that are like no other add little, and a near copy of a chosen one
    adds nothing.

    Args:
        features: float `(M, F)`, whose mean is about 0.
        weights: float `(M,)` of at least 0.
        count: How many are chosen, at most M.
        labeled: float `(L, F)`, the features of the labeled pictures.

    Returns:
        int64 `(count,)`, the places of the chosen ones, the first choice first.

    Example:

    >>> features = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    >>> choose(features, np.array([0.9, 0.9, 0.5]), 2, labeled=np.array([[-1.0, -1.0]])).tolist()
    [0, 2]

    Reference:
        Nemhauser et al., "An analysis of approximations for maximizing submodular set functions",
        1978. What a picture adds only falls, so a sorted list of earlier values saves most of the
        computation: Minoux, "Accelerated greedy algorithms", 1978.
    """
    features, known = _normalized(features), _normalized(labeled)
    blocks = np.array_split(np.arange(len(features)), len(features) // 500 + 1)
    nearest = np.concatenate([_similarity(features[block], known).max(axis=1) for block in blocks])

    def added(similarity: np.ndarray) -> np.ndarray:
        return np.maximum(similarity - nearest, 0) @ weights

    gains = np.concatenate([added(_similarity(features[block], features)) for block in blocks])
    heap = [(-gain, place) for place, gain in enumerate(gains.tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < count:
        place = heapq.heappop(heap)[1]
        similarity = _similarity(features[place], features)
        gain = float(added(similarity))
        if heap and gain < -heap[0][0]:  # another one may add more
            heapq.heappush(heap, (-gain, place))
        else:
            chosen.append(place)
            nearest = np.maximum(nearest, similarity)
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
        kept, largest_key = _sample(network, data, max(_SAMPLE, 2 * count))
    mean, deviation = kept.features.mean(axis=0), kept.features.std(axis=0) + 1e-6
    chosen = choose(
        (kept.features - mean) / deviation,
        weights_of(kept.worth, largest_key),
        min(count, len(kept.places)),
        (labeled.given - mean) / deviation,
    )
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


def _sample(network: Network, data: SemiSupervisedData, size: int) -> tuple[Candidates, float]:
    """Draws a sample of the unlabeled pictures, and returns the smallest key that is not in it."""
    draws, largest_key = np.random.default_rng(0), np.inf
    kept: Candidates | None = None
    for answers in network.batches(data.unlabeled):
        probabilities = softmax(answers.logits, axis=1)
        worth = worth_of(probabilities, data.labeled_counts.tolist())
        keys = draws.exponential(size=len(worth)) / np.maximum(worth, 1e-300)
        new = Candidates(answers.positions, answers.given, probabilities, worth, keys)
        joint = new
        if kept is not None:
            joint = Candidates(*map(np.concatenate, zip(kept, new, strict=True)))
        order = np.argsort(joint.keys, kind="stable")
        if len(order) > size:
            largest_key = min(largest_key, float(joint.keys[order[size]]))
        kept = Candidates(*(array[np.sort(order[:size])] for array in joint))
    assert kept is not None
    return kept, largest_key


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


def _similarity(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.maximum(some @ others.T, 0) ** _SHARPNESS
