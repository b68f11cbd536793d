"""Sets of classes that contain the true one with a chosen probability, class by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from daso_tf.step.calibration import class_groups

_ROUNDING = 1e-6


class Shared(NamedTuple):
    """Classes with too few held-out images, and the third that they share a threshold with.

    Attributes:
        classes: The classes with too few held-out images.
        third: All classes of their third, these included.
        images: Number of held-out images of the third.
        promised: The coverage that holds for the images of the third together, those classes as
            frequent as among the held-out images. 1 without held-out images: its classes are then
            in every set.
    """

    classes: list[int]
    third: list[int]
    images: int
    promised: float


class SetThresholds(NamedTuple):
    """Which classes are in the set of an image: those whose probability reaches their threshold.

    Attributes:
        coverage: The chosen probability that the set contains the true class.
        least: float `(K,)`, the least probability with which each class is in a set.
        shared: The classes for which `coverage` cannot be promised on their own.
    """

    coverage: float
    least: np.ndarray
    shared: list[Shared]

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the sets.

        Args:
            probabilities: float `(N, K)`.

        Returns:
            bool `(N, K)`, whether each class is in the set of each image. A set may be empty: no
            class looks like the image.
        """
        # Another batch or device may round a probability of 1 down.
        return np.asarray(probabilities) >= self.least * (1 - _ROUNDING)


def set_thresholds(
    scores: Sequence[np.ndarray], labeled_counts: Sequence[int], coverage: float
) -> SetThresholds:
    """Returns thresholds with which each class is covered (class-conditional conformal sets).

    The set of an image of class k contains k with a probability of at least `coverage`, for every
    k, if held-out and new images of k are exchangeable. So it holds for any class distribution.

    A class needs 1 / (1 - coverage) - 1 held-out images, 19 for a coverage of 0.95. With fewer, it
    shares the threshold of all images of its third (`class_groups`). The other classes of that
    third get at most this threshold, so that the third as a whole is covered, too.

    Args:
        scores: For each class, the probabilities that the model has for it, of the held-out images
            of this class: K float arrays.
        labeled_counts: Labeled training images of each class, K numbers; they define the thirds.
        coverage: In (0, 1).

    Returns:
        The `SetThresholds`.

    Example:

    >>> found = set_thresholds([np.arange(1, 20) / 20, np.array([0.6])], [9, 9], coverage=0.95)
    >>> found.least.tolist(), [(of.classes, of.promised) for of in found.shared]
    ([0.05, 0.6], [([1], 0.5)])
    >>> found(np.array([[0.7, 0.3], [0.02, 0.98]])).tolist()
    [[True, False], [False, True]]

    Reference:
        Vovk, "Conditional validity of inductive conformal predictors", Machine Learning 92, 2013,
        section 3 (label-conditional); Sadinle, Lei and Wasserman, "Least Ambiguous Set-Valued
        Classifiers With Bounded Error Levels", JASA 114, 2019.
    """
    least = np.array([_threshold(of_class, coverage) for of_class in scores])
    shared = []
    for third in class_groups(labeled_counts).values():
        few = [k for k in third if not _may_miss(len(scores[k]), coverage)]
        if not few:
            continue
        together = np.concatenate([scores[k] for k in third])
        threshold, images = _threshold(together, coverage), len(together)
        promised = coverage if _may_miss(images, coverage) else images / (images + 1)
        shared.append(Shared(few, third, images, promised if images else 1.0))
        least[few] = np.inf
        least[third] = np.minimum(least[third], threshold)
    return SetThresholds(coverage, least, shared)


def fewest_images(coverage: float) -> int:
    """Returns how many held-out images a threshold of its own needs.

    Example:

    >>> fewest_images(0.95)
    19
    """
    return math.ceil(round(1 / (1 - coverage) - 1, 9))


def _may_miss(images: int, coverage: float) -> int:
    """Returns how many of `images` held-out images and a new one may be left out of their sets."""
    return math.floor(round((images + 1) * (1 - coverage), 9))  # 10 * (1 - 0.9) is below 1


def _threshold(scores: np.ndarray, coverage: float) -> float:
    """Returns the largest threshold that promises the coverage, or else the lowest score."""
    if not len(scores):
        return 0.0
    return float(np.sort(scores)[max(_may_miss(len(scores), coverage), 1) - 1])
