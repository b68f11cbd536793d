"""Which share of unlabeled images each class has: estimates from predictions, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from daso_tf.data import estimate_distribution
from daso_tf.data.unlabeled_distribution import em_shares
from daso_tf.step.calibration import Calibrator, fit_calibrator

RESAMPLES = 200
LEVEL = 0.95
_START = 1e-3  # is added to the shares with which EM starts in a resample


class Estimate(NamedTuple):
    """Estimated numbers with the ends of their bootstrap intervals.

    Attributes:
        value: float `(...)`.
        low: float `(...)`.
        high: float `(...)`.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class ClassShares(NamedTuple):
    """The shares of the classes, by two methods; each sums to 1.

    Attributes:
        em: An `Estimate` `(K,)` by `daso_tf.data.unlabeled_distribution.em_shares`.
        matrix: An `Estimate` `(K,)` by `matrix_shares`; None where a class has no held-out image.
    """

    em: Estimate
    matrix: Estimate | None


def matrix_shares(
    held_out: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Estimates class shares by the confusion matrix of held-out images.

    Args:
        held_out: float `(M, K)`, predictions for images that the network has not learned.
        labels: int `(M,)`, their classes; every class occurs.
        unlabeled: float `(N, K)`, predictions for the images in question.
        weights: float `(N,)` of at least 0, how often each of them counts.

    Returns:
        float64 `(K,)` of at least 0, summing to 1; see `daso_tf.data.estimate_distribution`.

    Example:

    >>> held_out = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> mixed = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    >>> matrix_shares(held_out, np.array([0, 1]), mixed, np.ones(3)).round(3).tolist()
    [0.667, 0.333]
    """
    classes = range(held_out.shape[1])
    confusion = np.transpose([held_out[labels == k].mean(axis=0) for k in classes])
    return estimate_distribution(confusion, weights @ unlabeled / weights.sum())


def estimate_class_shares(
    held_out: np.ndarray,
    labels: np.ndarray,
    unlabeled: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ClassShares:
    """Estimates class shares from logits, with intervals.

    The predictions are calibrated on held-out images first. Each resample of the bootstrap draws
    held-out images within their class, calibrates again, and draws unlabeled images: so the
    intervals contain what few held-out images leave open.

    Args:
        held_out: float `(M, K)`, logits of images that the network has not learned.
        labels: int `(M,)`, their classes in 0..K-1.
        unlabeled: float `(N, K)`, logits of the images in question.
        resamples: Number of resamples, at least 1.
        seed: Determines the draws.

    Returns:
        The `ClassShares`, with intervals of 95 %.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels, unlabeled = np.repeat([0, 1], 200), np.repeat([0, 1], [50, 350])
    >>> logits = [rng.normal(4 * np.eye(2)[of], 1) for of in (labels, unlabeled)]
    >>> shares = estimate_class_shares(logits[0], labels, logits[1], resamples=20)
    >>> shares.em.value.round(1).tolist(), bool(shares.em.low[0] < 1 / 8 < shares.em.high[0])
    ([0.1, 0.9], True)
    """
    labels = np.asarray(labels)
    num_classes = held_out.shape[1]
    complete = len(np.unique(labels)) == num_classes
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    once = np.ones(len(unlabeled))

    def estimates(
        chosen: np.ndarray,
        weights: np.ndarray,
        calibrator: Calibrator | None = None,
        shares: np.ndarray | None = None,
    ) -> tuple[Calibrator, list[np.ndarray]]:
        calibrator = fit_calibrator(held_out[chosen], labels[chosen], calibrator)
        known, asked = calibrator(held_out[chosen]), calibrator(unlabeled)
        found = [em_shares(asked, known.mean(axis=0), weights, shares)]
        if complete:
            found.append(matrix_shares(known, labels[chosen], asked, weights))
        return calibrator, found

    calibrator, values = estimates(np.arange(len(labels)), once)
    near = (values[0] + _START) / (1 + num_classes * _START)  # a share of 0 would stay 0
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        chosen = np.concatenate([rng.choice(of, len(of)) for of in members])
        weights = rng.multinomial(len(unlabeled), once / len(unlabeled)).astype(np.float64)
        drawn.append(estimates(chosen, weights, calibrator, near)[1])
    found = [
        _with_interval(value, np.array(of))
        for value, of in zip(values, zip(*drawn, strict=True), strict=True)
    ]
    return ClassShares(found[0], found[1] if complete else None)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray | float],
    labels: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Returns a statistic of labeled images with an interval, by drawing images within classes.

    Args:
        statistic: A function of positions of images, int `(N,)`.
        labels: int `(N,)`, the classes of all images.
        resamples: Number of resamples, at least 1.
        seed: Determines the draws.

    Returns:
        The statistic of all images and its interval of 95 %.

    Example:

    >>> right = np.array([True] * 90 + [False] * 10)
    >>> accuracy = bootstrap(lambda chosen: right[chosen].mean(), np.zeros(100, int))
    >>> float(accuracy.value), bool(0.8 < accuracy.low < 0.9 < accuracy.high < 1)
    (0.9, True)
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    drawn = [
        statistic(np.concatenate([rng.choice(of, len(of)) for of in members]))
        for _ in range(resamples)
    ]
    return _with_interval(np.asarray(statistic(np.arange(len(labels)))), np.array(drawn))


def _with_interval(value: np.ndarray, drawn: np.ndarray) -> Estimate:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return Estimate(value, low, high)
