"""Whether probabilities can be believed: calibration errors, and a correction of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

BINS = 15  # of equally many images, as far as possible
THIRDS = ("head", "medium", "tail")
_FEWEST_CLASSES_IN_THIRDS = 6  # below, each class stands alone


class Reliability(NamedTuple):
    """How often predictions are right, by confidence: the points of a reliability diagram.

    Attributes:
        confidence: float `(B,)`, the mean confidence of the images of a bin, ascending.
        accuracy: float `(B,)`, the share of them whose predicted class is right.
        images: int `(B,)`, their number.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]; nan without images."""
        if not self.images.sum():
            return float("nan")
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.images))


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Divides images into bins of equally many by their confidence.

    Args:
        confidence: float `(N,)`, the probability of each predicted class.
        correct: bool `(N,)`, whether it is the true class.
        bins: Largest number of bins; with fewer images, each has a bin of its own.

    Returns:
        The `Reliability`. Its `error` is the expected calibration error with bins of equal mass.

    Example:

    >>> reliability(np.array([0.9, 0.7]), np.array([True, False]), bins=1).error
    0.30000000000000004

    Reference:
        Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops 2019, section 3.
    """
    order = np.argsort(confidence, kind="stable")
    members = [part for part in np.array_split(order, bins) if len(part)]
    return Reliability(
        np.array([np.mean(confidence[part]) for part in members]),
        np.array([np.mean(correct[part]) for part in members]),
        np.array([len(part) for part in members], np.int64),
    )


def thirds(labeled_counts: Sequence[int] | np.ndarray) -> dict[str, list[int]]:
    """Divides the classes into thirds by their number of labeled images, the largest first.

    Args:
        labeled_counts: Labeled images of each class, K numbers.

    Returns:
        The classes by the names of `THIRDS`; as many in each as far as possible.

    Example:

    >>> thirds([9, 1, 4, 8])
    {'head': [0, 3], 'medium': [2], 'tail': [1]}
    """
    by_size = np.argsort(-np.asarray(labeled_counts), kind="stable")
    of_names = zip(THIRDS, np.array_split(by_size, len(THIRDS)), strict=True)
    return {name: third.tolist() for name, third in of_names}


def class_groups(labeled_counts: Sequence[int] | np.ndarray) -> dict[str, list[int]]:
    """Divides the classes into thirds, or into single classes if there are fewer than six.

    Args:
        labeled_counts: Labeled images of each class, K numbers.

    Returns:
        The `thirds`; or each class alone, whose number is then the name of the group.

    Example:

    >>> class_groups([9, 1, 4, 8, 2, 3])
    {'head': [0, 3], 'medium': [2, 5], 'tail': [4, 1]}
    >>> class_groups([9, 1])
    {'0': [0], '1': [1]}
    """
    if len(labeled_counts) < _FEWEST_CLASSES_IN_THIRDS:
        return {str(k): [k] for k in range(len(labeled_counts))}
    return thirds(labeled_counts)


def calibration(
    labels: np.ndarray, probabilities: np.ndarray, labeled_counts: Sequence[int] | np.ndarray
) -> dict[str, Any]:
    """Measures how far probabilities can be believed.

    Args:
        labels: int `(N,)`, true classes in 0..K-1.
        probabilities: float `(N, K)`; each row sums to 1.
        labeled_counts: Labeled training images of each class, K numbers.

    Returns:
        `expected_calibration_error` in [0, 1]; `expected_calibration_error_of`, the same of the
        images that are predicted as a class of each of the `class_groups`, nan where there are
        none; `brier_score`, the mean squared distance of the probabilities from the true class, in
        [0, 2]; and `log_loss`, the mean of -log of the true class's probability.

    Example:

    >>> measured = calibration(np.array([0, 1]), np.array([[0.8, 0.2], [0.4, 0.6]]), [5, 5])
    >>> round(measured["brier_score"], 3), round(measured["expected_calibration_error"], 3)
    (0.2, 0.3)
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == labels
    of_label = probabilities[np.arange(len(labels)), labels]
    by_group = {}
    for name, classes in class_groups(labeled_counts).items():
        inside = np.isin(predicted, classes)
        by_group[name] = reliability(confidence[inside], correct[inside]).error
    # The distance of p from the one-hot label y: |p|^2 - 2 p.y + 1.
    squared = np.square(probabilities).sum(axis=1) - 2 * of_label + 1
    return {
        "expected_calibration_error": reliability(confidence, correct).error,
        "expected_calibration_error_of": by_group,
        "brier_score": float(squared.mean()),
        "log_loss": float(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).mean()),
    }


class Calibrator(NamedTuple):
    """A correction of logits: a factor for all classes, and a summand for each.

    Attributes:
        temperature: Divides the logits, above 0.
        bias: float `(K,)`, is then added to them.
    """

    temperature: float
    bias: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities.

        Args:
            logits: float `(N, K)`.

        Returns:
            float64 `(N, K)`; each row sums to 1.
        """
        return softmax(np.asarray(logits, np.float64) / self.temperature + self.bias, axis=1)

    def of_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities.

        Args:
            probabilities: float `(N, K)`, the softmax of the logits.

        Returns:
            float64 `(N, K)`; each row sums to 1.
        """
        return self(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))


def fit_calibrator(
    logits: np.ndarray,
    labels: np.ndarray,
    start: Calibrator | None = None,
    with_bias: bool = True,
    weights: np.ndarray | None = None,
) -> Calibrator:
    """Fits a temperature and biases to images that the network has not learned.

    It maximizes the likelihood of the labels (bias-corrected temperature scaling). A prior as weak
    as one image keeps log temperature and biases near 0 where few images say something else.

    Args:
        logits: float `(N, K)` of a network, or logarithms of its probabilities.
        labels: int `(N,)`, the true classes in 0..K-1.
        start: Where the search starts; one that is near makes it short.
        with_bias: Whether biases are fitted, too; otherwise they are 0.
        weights: float `(N,)` of at least 0, how much each image counts, in any scale; by default
            all count the same.

    Returns:
        The `Calibrator`.

    Example:

    >>> sure = np.array([[9.0, 0.0]] * 8)  # but right in 3 of 4 cases
    >>> fitted = fit_calibrator(sure, np.array([0, 0, 0, 1] * 2))
    >>> float(fitted(sure)[0, 0].round(2))
    0.81

    Reference:
        Alexandari, Kundaje and Shrikumar, "Maximum Likelihood with Bias-Corrected Calibration is
        Hard-To-Beat at Label Shift Adaptation", ICML 2020, section 3.
    """
    from scipy.optimize import minimize

    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    rows = np.arange(len(labels))
    counted = np.ones(len(labels)) if weights is None else weights / np.mean(weights)

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        log_scale, bias = parameters[0], parameters[1:]
        scaled = logits * np.exp(log_scale)
        moved = scaled + bias
        moved -= moved.max(axis=1, keepdims=True)
        error = np.exp(moved)
        total = error.sum(axis=1, keepdims=True)
        loss = counted @ (np.log(total[:, 0]) - moved[rows, labels])
        error /= total
        error[rows, labels] -= 1
        error *= counted[:, None]
        gradient = np.append(np.sum(error * scaled), error.sum(axis=0)) + parameters
        gradient[1:] *= with_bias
        return loss + parameters @ parameters / 2, gradient

    first = np.zeros(1 + logits.shape[1])
    if start is not None:
        first = np.append(-np.log(start.temperature), start.bias)
    found = minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", tol=1e-7).x
    return Calibrator(float(np.exp(-found[0])), found[1:])
