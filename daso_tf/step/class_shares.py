"""Which share of unlabeled images each class has: estimates from predictions, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from daso_tf.data import estimate_distribution
from daso_tf.data.unlabeled_distribution import MOST_WRONG, em_shares, total_variation
from daso_tf.pseudo_labels.discriminant import folds
from daso_tf.step.calibration import Calibrator, fit_calibrator

RESAMPLES = 200
LEVEL = 0.95
_FOLDS = 5
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
        em: An `Estimate` `(K,)` by `daso_tf.data.unlabeled_distribution.em_shares`; None where
            `self_check` is above `MOST_WRONG`.
        matrix: An `Estimate` `(K,)` by `matrix_shares`; None where a class has no held-out image.
        self_check: The result of `self_check`.
    """

    em: Estimate | None
    matrix: Estimate | None
    self_check: float


class Predictions(NamedTuple):
    """Logits of the same classifier for images of known and of unknown classes.

    Attributes:
        held_out: float `(M, K)`, for images that it has not learned.
        labels: int `(M,)`, their classes in 0..K-1.
        unlabeled: float `(N, K)`, for the images in question.
    """

    held_out: np.ndarray
    labels: np.ndarray
    unlabeled: np.ndarray


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
    predictions: Predictions,
    refitted: Iterable[Predictions] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ClassShares:
    """Estimates class shares from logits, with intervals.

    The predictions are calibrated on held-out images first. Each resample of the bootstrap draws
    held-out images within their class, calibrates again, and draws unlabeled images. It draws one
    image of a class less than there are (Rao and Wu 1988): with as many, the variance of a class of
    n images is too small by a factor of (n - 1) / n.

    Args:
        predictions: What it estimates from.
        refitted: The same by classifiers that were fitted to resamples of the labeled images, if
            the held-out images are the labeled ones. The resamples take them in turn, so that the
            intervals contain what few labeled images leave open. Such a classifier has seen fewer
            different images, which moves its estimates, so only their spread is used.
        resamples: Number of resamples, at least 1.
        seed: Determines the draws.

    Returns:
        The `ClassShares`, with intervals of 95 %.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels, unlabeled = np.repeat([0, 1], 200), np.repeat([0, 1], [50, 350])
    >>> logits = [rng.normal(4 * np.eye(2)[of], 1) for of in (labels, unlabeled)]
    >>> predictions = Predictions(logits[0], labels, logits[1])
    >>> shares = estimate_class_shares(predictions, resamples=20)
    >>> shares.em.value.round(1).tolist(), bool(shares.em.low[0] < 1 / 8 < shares.em.high[0])
    ([0.1, 0.9], True)

    Reference:
        Rao and Wu, "Resampling Inference With Complex Survey Data", JASA 83, 1988.
    """
    num_classes = predictions.held_out.shape[1]
    calibrator = fit_calibrator(predictions.held_out, predictions.labels)
    value, matrix = _estimates(predictions, calibrator)
    near = (value + _START) / (1 + num_classes * _START)  # a share of 0 would stay 0
    rng = np.random.default_rng(seed)
    sources = list(refitted) or [predictions]
    once = np.ones(len(predictions.unlabeled))
    drawn: list[tuple[np.ndarray, np.ndarray | None]] = []
    for number in range(resamples):
        of = sources[number % len(sources)]
        chosen = _drawn(of.labels, rng)
        of = of._replace(held_out=of.held_out[chosen], labels=of.labels[chosen])
        weights = rng.multinomial(len(once), once / len(once)).astype(np.float64)
        again = fit_calibrator(of.held_out, of.labels, calibrator)
        drawn.append(_estimates(of, again, weights, near))
    em = np.array([of_em for of_em, _ in drawn])
    if len(sources) > 1:
        em = np.clip(em + value - np.median(em, axis=0), 0, 1)
    by_matrix = np.array([of_matrix for _, of_matrix in drawn if of_matrix is not None])
    wrong = self_check(predictions.held_out, predictions.labels, seed)
    return ClassShares(
        None if wrong > MOST_WRONG else interval_of(value, em),
        None if matrix is None else interval_of(matrix, by_matrix),
        wrong,
    )


def confirmed_shares(
    held_out: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray
) -> np.ndarray | None:
    """Estimates class shares by EM, if the same estimate finds those of the held-out images.

    Args:
        held_out: float `(M, K)`, probabilities of images that the network has not learned.
        labels: int `(M,)`, their classes in 0..K-1.
        unlabeled: float `(N, K)`, probabilities of the images in question.

    Returns:
        float64 `(K,)` above 0, summing to 1, with an image of each class added; None where
        `self_check` is above `MOST_WRONG`.

    Example:

    >>> sure = np.array([[0.99, 0.01], [0.01, 0.99]])
    >>> found = confirmed_shares(np.repeat(sure, 20, axis=0), np.repeat([0, 1], 20),
    ...                          np.repeat(sure, [30, 68], axis=0))
    >>> found.round(2).tolist()
    [0.31, 0.69]
    """
    logits, asked = (
        np.log(np.maximum(of, np.finfo(np.float32).tiny)) for of in (held_out, unlabeled)
    )
    if self_check(logits, labels) > MOST_WRONG:
        return None
    calibrator = fit_calibrator(logits, labels)
    return em_shares(calibrator(asked), calibrator(logits).mean(axis=0), added=1.0)


def self_check(held_out: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Measures how far EM misses the class distribution of held-out images, which is known.

    Each fifth of them is calibrated on the four others. With few images, EM may not even find
    their own distribution; then it finds that of other images even less.

    Args:
        held_out: float `(M, K)`, logits of images that the network has not learned.
        labels: int `(M,)`, their classes in 0..K-1.
        seed: Determines the fifths.

    Returns:
        The total variation between the estimated and the true shares, in [0, 1].

    Example:

    >>> logits = 9 * np.eye(2)[[0, 0, 0, 1, 1, 1] * 4]
    >>> round(self_check(logits, np.array([0, 0, 0, 1, 1, 1] * 4)), 3)
    0.0
    """
    num_classes = held_out.shape[1]
    known = np.bincount(labels, minlength=num_classes) / len(labels)
    likelihoods = np.full(held_out.shape, 1 / num_classes)
    fold = folds(labels, _FOLDS, seed)
    for number in range(_FOLDS):
        out = fold == number
        if out.any() and not out.all():
            calibrator = fit_calibrator(held_out[~out], labels[~out])
            likelihoods[out] = calibrator(held_out[out]) / calibrator(held_out[~out]).mean(axis=0)
    likelihoods /= likelihoods.sum(axis=1, keepdims=True)
    uniform = np.full(num_classes, 1 / num_classes)
    start = (known + _START) / (1 + num_classes * _START)
    return total_variation(em_shares(likelihoods, uniform, start=start), known)


def _estimates(
    predictions: Predictions,
    calibrator: Calibrator,
    weights: np.ndarray | None = None,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the shares by EM and by the matrix; None where a class has no held-out image."""
    labels = predictions.labels
    known, asked = calibrator(predictions.held_out), calibrator(predictions.unlabeled)
    em = em_shares(asked, known.mean(axis=0), weights, start)
    if len(np.unique(labels)) < known.shape[1]:
        return em, None
    counts = np.ones(len(asked)) if weights is None else weights
    return em, matrix_shares(known, labels, asked, counts)


def _drawn(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws images within their class, one less than there are, but at least one."""
    members = (np.flatnonzero(labels == k) for k in np.unique(labels))
    return np.concatenate([rng.choice(of, max(len(of) - 1, 1)) for of in members])


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
    return interval_of(np.asarray(statistic(np.arange(len(labels)))), np.array(drawn))


def interval_of(value: np.ndarray | float, drawn: np.ndarray) -> Estimate:
    """Returns a statistic with its interval of 95 % by the bootstrap.

    Args:
        value: float `(...)`.
        drawn: float `(resamples, ...)`, its value in each resample.
    """
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return Estimate(np.asarray(value), low, high)
