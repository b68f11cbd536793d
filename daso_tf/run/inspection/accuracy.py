"""How good the network is on pictures of known class, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix

from daso_tf.step.calibration import Reliability, calibration, class_groups, reliability
from daso_tf.step.class_shares import Estimate, bootstrap

_DEVIATIONS = 1.959964  # of a normal distribution, which contain 95 %


class Accuracy(NamedTuple):
    """How good predictions are.

    Attributes:
        part: "test", "validation", or "labeled" for out-of-fold predictions.
        images: Number of pictures.
        accuracy: An `Estimate`, a scalar in [0, 1].
        balanced: An `Estimate`, the mean recall of the classes that have pictures.
        groups: By the name of each of the `class_groups`, an `Estimate` of its mean recall.
        recall: An `Estimate` `(K,)` with intervals by `wilson`; nan for a class without pictures.
        precision: float `(K,)`; nan for a class that is never predicted.
        confusion: int `(K, K)`; row: the class, column: the prediction.
        reliability: The points of the reliability diagram.
        calibration: What `daso_tf.step.calibration.calibration` measures.
    """

    part: str
    images: int
    accuracy: Estimate
    balanced: Estimate
    groups: dict[str, Estimate]
    recall: Estimate
    precision: np.ndarray
    confusion: np.ndarray
    reliability: Reliability
    calibration: dict


def measure(
    part: str, labels: np.ndarray, probabilities: np.ndarray, labeled_counts: Sequence[int]
) -> Accuracy:
    """Measures predictions, with intervals of 95 %: those of means are by the bootstrap.

    Args:
        part: Which pictures they are.
        labels: int `(N,)`, true classes in 0..K-1.
        probabilities: float `(N, K)`.
        labeled_counts: Labeled training pictures of each class, K numbers.

    Returns:
        The `Accuracy`.

    Example:

    >>> probabilities = np.array([[0.8, 0.2], [0.6, 0.4], [0.4, 0.6], [0.3, 0.7]])
    >>> found = measure("test", np.array([0, 0, 0, 1]), probabilities, [9, 3])
    >>> float(found.accuracy.value), found.confusion.tolist(), found.precision.tolist()
    (0.75, [[2, 1], [0, 1]], [1.0, 0.5])
    """
    num_classes = len(labeled_counts)
    predicted = probabilities.argmax(axis=1)
    correct = (predicted == labels).astype(float)
    groups = class_groups(labeled_counts)
    images = np.bincount(labels, minlength=num_classes)

    def statistics(chosen: np.ndarray) -> np.ndarray:
        hits = np.bincount(labels[chosen], correct[chosen], num_classes)
        with np.errstate(invalid="ignore"):
            recall = hits / images  # the resamples have as many pictures of each class
        means = [_mean(recall[classes]) for classes in groups.values()]
        return np.array([correct[chosen].mean(), _mean(recall), *means])

    found = bootstrap(statistics, labels)
    confusion = confusion_matrix(labels, predicted, labels=range(num_classes))
    recall = wilson(confusion.diagonal(), images)
    by_group = {
        name: Estimate(*(array[2 + place] for array in found))
        if len(classes) > 1
        else Estimate(*(array[classes[0]] for array in recall))
        for place, (name, classes) in enumerate(groups.items())
    }
    with np.errstate(invalid="ignore"):
        precision = confusion.diagonal() / confusion.sum(axis=0)
    return Accuracy(
        part,
        len(labels),
        Estimate(*(array[0] for array in found)),
        Estimate(*(array[1] for array in found)),
        by_group,
        recall,
        precision,
        confusion,
        reliability(probabilities.max(axis=1), correct > 0),
        calibration(labels, probabilities, labeled_counts),
    )


def wilson(hits: np.ndarray, images: np.ndarray) -> Estimate:
    """Returns shares with Wilson's intervals of 95 %, which are right where all or none are hits.

    Args:
        hits: int `(K,)`.
        images: int `(K,)`, of how many.

    Returns:
        An `Estimate` `(K,)`; nan where there are no images.

    Example:

    >>> [float(end[0].round(2)) for end in wilson(np.array([0]), np.array([20]))]
    [0.0, 0.0, 0.16]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = hits / images
        more = _DEVIATIONS**2 / images
        middle = (share + more / 2) / (1 + more)
        half = np.sqrt(share * (1 - share) * more + more**2 / 4) / (1 + more)
    return Estimate(share, np.maximum(middle - half, 0), np.minimum(middle + half, 1))


def _mean(recall: np.ndarray) -> float:
    """Returns the mean over the classes that have pictures; nan where none has."""
    there = recall[~np.isnan(recall)]
    return float(there.mean()) if len(there) else float("nan")
