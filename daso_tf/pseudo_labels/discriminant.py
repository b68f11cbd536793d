"""Linear discriminant analysis on frozen features, and what it says of unlabeled images.

With few labeled images, the means of rare classes are too far from the others: the squared length
of a mean of n features is larger by v / n than that of the true mean, where v is the variance
within a class. The scores here correct for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.special import log_softmax, softmax

from daso_tf.data.unlabeled_distribution import MOST_WRONG, em_shares, total_variation

# The first one is best for some hundred labeled images per class. The fewer there are, the less is
# known of the covariance.
SHRINKAGES = (0.6, 0.8, 0.9, 0.95, 0.98, 1.0)
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
        shrinkage: float = SHRINKAGES[0],
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
        return _Spread.of(features, labels, num_classes).discriminant(shrinkage, corrected)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns the score of each class.

        Args:
            features: float `(..., F)`, standardized.

        Returns:
            float64 `(..., K)`.
        """
        return np.asarray(features, np.float64) @ self.weights + self.bias


class _Spread(NamedTuple):
    """Means and covariance of labeled features, decomposed once for all shrinkages.

    Attributes:
        means: `(K, F)`, of the classes.
        counts: `(K,)`, images of the classes.
        values: `(R,)`, the eigenvalues of the covariance within the classes that are not 0.
        vectors: `(F, R)`, their eigenvectors.
    """

    means: np.ndarray
    counts: np.ndarray
    values: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, num_classes: int) -> _Spread:
        features = np.asarray(features, np.float64)
        counts = np.bincount(labels, minlength=num_classes)
        sums = np.zeros((num_classes, features.shape[1]))
        np.add.at(sums, labels, features)
        means = sums / np.maximum(counts, 1)[:, None]
        within = (features - means[labels]) / np.sqrt(len(features))
        if len(within) >= within.shape[1]:
            values, vectors = eigh(within.T @ within)
            return cls(means, counts, np.maximum(values, 0.0), vectors)
        values, vectors = eigh(within @ within.T)  # the same eigenvalues, and fewer
        some = values > values[-1] * 1e-12
        return cls(means, counts, values[some], within.T @ vectors[:, some] / np.sqrt(values[some]))

    def discriminant(self, shrinkage: float, corrected: bool = True) -> Discriminant:
        # Whitening is a product with the root of the inverse, so products of whitened features are
        # products with the inverse.
        level = shrinkage * (self.values.sum() / self.means.shape[1] or 1.0)
        values = (1.0 - shrinkage) * self.values + level
        within = (self.vectors.T @ self.means.T) * (1.0 / values - 1.0 / level)[:, None]
        weights = self.means.T / level + self.vectors @ within
        bias = -0.5 * np.einsum("kf,fk->k", self.means, weights)
        if corrected:
            variance = (self.values / values).sum()
            bias = bias + variance / (2.0 * np.maximum(self.counts, 1))
        return Discriminant(weights, np.where(self.counts > 0, bias, -np.inf))


class Teacher(NamedTuple):
    """What a discriminant says of unlabeled images.

    Attributes:
        targets: float64 `(N, K)`, the class distribution of each image.
        class_distribution: float64 `(K,)`, the estimated share of each class.
        temperature: The temperature of the scores.
        estimated: Whether the share is estimated; if not, it is that of the labeled images.
    """

    targets: np.ndarray
    class_distribution: np.ndarray
    temperature: float
    estimated: bool


def teach(
    features: np.ndarray,
    labels: np.ndarray,
    views: Iterable[np.ndarray],
    num_classes: int,
    seed: int = 0,
    shrinkage: float | None = None,
) -> Teacher:
    """Fits a discriminant to labeled features and lets it label unlabeled ones, softly.

    The class distribution of the unlabeled images is estimated by EM, if EM also finds that of the
    labeled images, from out-of-fold scores. With few labels it finds neither: one class takes all.

    Args:
        features: float `(N, F)`, of the labeled images, standardized.
        labels: int `(N,)`, classes in 0..K-1.
        views: float `(M, F)` each, of weak views of the unlabeled images, standardized; scores are
            the mean over the views.
        num_classes: K.
        seed: Determines the folds.
        shrinkage: As for `Discriminant.fit`; by default `chosen_shrinkage`.

    Example:

    >>> features = np.array([[-1.0], [-1.2], [-0.9], [1.0], [1.1], [0.8]])
    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> teach(features, labels, [np.array([[-1.0], [-1.1], [1.0]])], 2).targets.argmax(axis=1)
    array([0, 0, 1])
    """
    if shrinkage is None:
        shrinkage = chosen_shrinkage(features, labels, num_classes, seed)
    scores = out_of_fold_scores(features, labels, num_classes, seed, shrinkage)
    prior = np.bincount(labels, minlength=num_classes) / len(labels)
    temperature = fitted_temperature(scores, labels, prior)
    found = estimated_prior(scores / temperature, prior)
    estimated = total_variation(found, prior) <= MOST_WRONG
    discriminant = Discriminant.fit(features, labels, num_classes, shrinkage)
    mean = np.mean([discriminant.scores(view) for view in views], axis=0) / temperature
    shares = estimated_prior(mean, prior) if estimated else prior
    return Teacher(softmax(mean + np.log(shares), axis=1), shares, temperature, estimated)


def chosen_shrinkage(
    features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0
) -> float:
    """Returns the first of `SHRINKAGES` that is at most a standard error less likely than the best.

    The likelihood is that of the out-of-fold scores, with their own temperature.

    Args:
        features: float `(N, F)`, standardized.
        labels: int `(N,)`, classes in 0..K-1.
        num_classes: K.
        seed: Determines the folds.

    Example:

    >>> draws = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 20)
    >>> features = draws.normal(size=(40, 100)) + 0.5 * labels[:, None]
    >>> chosen_shrinkage(features, labels, 2) > 0.6  # more features than images
    True

    Reference:
        Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", section 7.10.
    """
    prior = np.bincount(labels, minlength=num_classes) / len(labels)
    spreads = _out_of_fold(features, labels, num_classes, seed)
    losses = []
    for shrinkage in SHRINKAGES:
        scores = _scores_of(spreads, features, num_classes, shrinkage)
        losses.append(_losses(scores, labels, prior, fitted_temperature(scores, labels, prior)))
    means = [of_one.mean() if len(of_one) else 0.0 for of_one in losses]
    best = losses[int(np.argmin(means))]
    most = min(means) + (best.std() / np.sqrt(len(best)) if len(best) else 0.0)
    return next(s for s, mean in zip(SHRINKAGES, means, strict=True) if mean <= most)


def _losses(
    scores: np.ndarray, labels: np.ndarray, prior: np.ndarray, temperature: float
) -> np.ndarray:
    """Returns the negative log-likelihood of each image whose class is known to the scores."""
    known = np.isfinite(scores[np.arange(len(labels)), labels])
    logits = scores[known] / temperature + np.log(prior)
    return -log_softmax(logits, axis=1)[np.arange(known.sum()), labels[known]]


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
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    seed: int = 0,
    shrinkage: float = SHRINKAGES[0],
) -> np.ndarray:
    """Returns the scores of each image by a discriminant of the four other fifths.

    Args:
        features: float `(N, F)`, standardized.
        labels: int `(N,)`, classes in 0..K-1.
        num_classes: K.
        seed: Determines the folds.
        shrinkage: As for `Discriminant.fit`.

    Returns:
        float64 `(N, K)`; -inf for a class that the other fifths lack.
    """
    spreads = _out_of_fold(features, labels, num_classes, seed)
    return _scores_of(spreads, features, num_classes, shrinkage)


def _out_of_fold(
    features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int
) -> list[tuple[np.ndarray, _Spread]]:
    """Returns which images are in each fold, with the spread of all others."""
    fold = folds(labels, _FOLDS, seed)
    outs = [fold == number for number in range(_FOLDS)]
    return [
        (out, _Spread.of(features[~out], labels[~out], num_classes))
        for out in outs
        if out.any() and not out.all()
    ]


def _scores_of(
    spreads: list[tuple[np.ndarray, _Spread]],
    features: np.ndarray,
    num_classes: int,
    shrinkage: float,
) -> np.ndarray:
    scores = np.empty((len(features), num_classes))
    for out, spread in spreads:
        scores[out] = spread.discriminant(shrinkage).scores(features[out])
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
    from scipy.optimize import minimize_scalar

    if not np.isfinite(scores[np.arange(len(labels)), labels]).any():
        return 1.0

    def loss(log_temperature: float) -> float:
        return _losses(scores, labels, prior, np.exp(log_temperature)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded").x))


def estimated_prior(logits: np.ndarray, start: np.ndarray, iterations: int = 100) -> np.ndarray:
    """Estimates the class distribution of images from classifier scores, by `em_shares`.

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
    """
    likelihoods = softmax(logits, axis=1)
    uniform = np.full(len(start), 1 / len(start))
    return em_shares(
        likelihoods, uniform, start=start, added=1.0, tolerance=0.0, most_iterations=iterations
    )
