"""Linear discriminant analysis on frozen features, and what it says of unlabeled images.

With few labeled images, the means of rare classes are too far from the others: the squared length
of a mean of n features is larger by v / n than that of the true mean, where v is the variance
within a class. The scores here correct for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.covariance import shrunk_covariance

SHRINKAGE = 0.6
_FOLDS = 5
_TEMPERATURES = (0.1, 1000.0)


class Discriminant(NamedTuple):
    """A linear classifier: `features @ weights + bias` are its scores, without any class prior.

    Attributes:
        weights: float64 `(F, K)`.
        bias: float64 `(K,)`; -inf for a class without labeled images.
    """

    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        shrinkage: float = SHRINKAGE,
        corrected: bool = True,
    ) -> Discriminant:
        """Fits it to labeled features.

        Args:
            features: float `(N, F)`, standardized.
            labels: int `(N,)`, classes in 0..K-1.
            num_classes: K.
            shrinkage: Share of the covariance that is replaced by its mean variance, in (0, 1].
            corrected: Whether scores are corrected for the number of images of each class.

        Example:

        >>> features = np.array([[-1.0, 0.0], [-1.2, 0.1], [1.0, 0.0], [1.1, 0.2]])
        >>> lda = Discriminant.fit(features, np.array([0, 0, 1, 1]), num_classes=2)
        >>> lda.scores(np.array([[-0.5, 0.0], [0.5, 0.0]])).argmax(axis=1)
        array([0, 1])
        """
        features = np.asarray(features, np.float64)
        counts = np.bincount(labels, minlength=num_classes)
        sums = np.zeros((num_classes, features.shape[1]))
        np.add.at(sums, labels, features)
        means = sums / np.maximum(counts, 1)[:, None]
        within = features - means[labels]
        covariance = within.T @ within / len(features)
        factor = cho_factor(shrunk_covariance(covariance, shrinkage))
        # Whitening is a product with the root of the inverse, so products of whitened features are
        # products with the inverse.
        weights = cho_solve(factor, means.T)
        bias = -0.5 * np.einsum("kf,fk->k", means, weights)
        if corrected:
            variance = np.trace(cho_solve(factor, covariance))
            bias = bias + variance / (2.0 * np.maximum(counts, 1))
        return cls(weights, np.where(counts > 0, bias, -np.inf))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns the score of each class.

        Args:
            features: float `(..., F)`, standardized.

        Returns:
            float64 `(..., K)`.
        """
        return np.asarray(features, np.float64) @ self.weights + self.bias


class Teacher(NamedTuple):
    """What a discriminant says of unlabeled images.

    Attributes:
        targets: float64 `(N, K)`, the class distribution of each image.
        class_distribution: float64 `(K,)`, the estimated share of each class.
        temperature: The temperature of the scores.
    """

    targets: np.ndarray
    class_distribution: np.ndarray
    temperature: float


def teach(
    features: np.ndarray,
    labels: np.ndarray,
    views: Iterable[np.ndarray],
    num_classes: int,
    seed: int = 0,
) -> Teacher:
    """Fits a discriminant to labeled features and lets it label unlabeled ones, softly.

    Args:
        features: float `(N, F)`, of the labeled images, standardized.
        labels: int `(N,)`, classes in 0..K-1.
        views: float `(M, F)` each, of weak views of the unlabeled images, standardized; scores are
            the mean over the views.
        num_classes: K.
        seed: Determines the folds.

    Example:

    >>> features = np.array([[-1.0], [-1.2], [-0.9], [1.0], [1.1], [0.8]])
    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> teach(features, labels, [np.array([[-1.0], [-1.1], [1.0]])], 2).targets.argmax(axis=1)
    array([0, 0, 1])
    """
    scores = out_of_fold_scores(features, labels, num_classes, seed)
    prior = np.bincount(labels, minlength=num_classes) / len(labels)
    temperature = fitted_temperature(scores, labels, prior)
    discriminant = Discriminant.fit(features, labels, num_classes)
    mean = np.mean([discriminant.scores(view) for view in views], axis=0) / temperature
    estimated = estimated_prior(mean, prior)
    return Teacher(softmax(mean + np.log(estimated), axis=1), estimated, temperature)


def folds(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Divides images into folds, those of each class as evenly as possible.

    Args:
        labels: int `(N,)`.
        count: Number of folds.
        seed: Determines the division.

    Returns:
        int `(N,)`, the fold of each image.
    """
    draws = np.random.default_rng(seed)
    fold, start = np.empty(len(labels), np.int64), 0
    for k in np.unique(labels):
        members = draws.permutation(np.flatnonzero(labels == k))
        fold[members] = (start + np.arange(len(members))) % count
        start += len(members)  # rare classes do not all go to the first fold
    return fold


def out_of_fold_scores(
    features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0
) -> np.ndarray:
    """Returns the scores of each image by a discriminant of the four other fifths.

    Args:
        features: float `(N, F)`, standardized.
        labels: int `(N,)`, classes in 0..K-1.
        num_classes: K.
        seed: Determines the folds.

    Returns:
        float64 `(N, K)`; -inf for a class that the other fifths lack.
    """
    fold = folds(labels, _FOLDS, seed)
    scores = np.empty((len(labels), num_classes))
    for number in range(_FOLDS):
        out = fold == number
        if out.any() and not out.all():
            discriminant = Discriminant.fit(features[~out], labels[~out], num_classes)
            scores[out] = discriminant.scores(features[out])
    return scores


def fitted_temperature(scores: np.ndarray, labels: np.ndarray, prior: np.ndarray) -> float:
    """Returns the temperature T with the highest likelihood of `softmax(scores / T + log prior)`.

    Args:
        scores: float `(N, K)`, of images that were not learned. Images whose class has the score
            -inf are left out.
        labels: int `(N,)`, their classes.
        prior: `(K,)`, the share of each class.

    Example:

    >>> scores = 3 * np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(fitted_temperature(scores, np.array([0, 0, 1, 1]), np.array([0.5, 0.5])), 2)
    2.73
    """
    known = np.isfinite(scores[np.arange(len(labels)), labels])
    if not known.any():
        return 1.0
    scores, labels = scores[known], labels[known]

    def loss(log_temperature: float) -> float:
        logits = scores / np.exp(log_temperature) + np.log(prior)
        return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded").x))


def estimated_prior(logits: np.ndarray, start: np.ndarray, iterations: int = 100) -> np.ndarray:
    """Estimates the class distribution of images from classifier scores, by EM.

    Args:
        logits: float `(N, K)`, logarithms of the likelihood of each class, up to a constant per
            image.
        start: `(K,)`, the first estimate; it sums to 1.
        iterations: Number of iterations.

    Returns:
        `(K,)`, shares that sum to 1. One image per class is added to the expected counts, so that
        no share becomes 0.

    Example:

    >>> logits = np.log([[0.9, 0.1]] * 30 + [[0.1, 0.9]] * 10)
    >>> estimated_prior(logits, np.array([0.5, 0.5])).round(2).tolist()
    [0.79, 0.21]

    Reference:
        Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
        Probabilities: A Simple Procedure", Neural Computation 14, 2002, section 2.
    """
    prior = np.asarray(start, np.float64)
    for _ in range(iterations):
        expected = softmax(logits + np.log(prior), axis=1).sum(axis=0)
        prior = (expected + 1.0) / (len(logits) + len(prior))
    return prior
