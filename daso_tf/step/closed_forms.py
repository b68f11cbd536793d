"""Classifiers on a feature bank that need no training steps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from daso_tf.balance.logit_adjustment import log_prior
from daso_tf.data import BankedData, Rows
from daso_tf.pseudo_labels.discriminant import (
    Discriminant,
    Teacher,
    chosen_shrinkage,
    fitted_temperature,
    out_of_fold_scores,
    teach,
)
from daso_tf.step.stored_views import feature_statistics


@functools.lru_cache(maxsize=1)
def teacher(data: BankedData) -> Teacher:
    """Returns what linear discriminant analysis says of the unlabeled images.

    Args:
        data: Data of a feature bank.

    Raises:
        ValueError: If the data is no feature bank.
    """
    if not isinstance(data, BankedData):
        raise ValueError(
            "lda_teacher needs the features of a frozen encoder: give the data that "
            "daso_tf.feature_bank(data, encoder) returns."
        )
    statistics = feature_statistics(data)
    views = data.unlabeled.views[1]
    return teach(
        _known(data),
        data.labeled.labels,
        (statistics.standardized(views[:, view]) for view in range(min(2, views.shape[1]))),
        data.num_classes,
        shrinkage=_shrinkage(data),
    )


@functools.lru_cache(maxsize=1)
def _shrinkage(data: BankedData) -> float:
    """Returns the shrinkage of linear discriminant analysis that the labeled images choose."""
    return chosen_shrinkage(_known(data), data.labeled.labels, data.num_classes)


def _known(data: BankedData) -> np.ndarray:
    """Returns the standardized features of the plain views of the labeled images."""
    return feature_statistics(data).standardized(data.labeled.views[0][:, 0])


NAMES = {
    "discriminant": "linear discriminant",
    "nearest_mean": "nearest class mean",
    "neighbors": "20 nearest neighbors",
    "logistic": "logistic regression",
}
LINEAR = ("discriminant", "logistic")  # those that a network with one layer can be
_NEIGHBORS = 20
_L2 = 0.1  # of logistic regression, on standardized features


class LinearForm(NamedTuple):
    """A linear classifier that treats all classes alike.

    Attributes:
        weights: float64 `(F, K)`.
        bias: float64 `(K,)`.
    """

    weights: np.ndarray
    bias: np.ndarray


def linear_form(name: str, data: BankedData) -> LinearForm:
    """Returns a classifier of `answers` as the weights of a linear layer on standardized features.

    The softmax of its scores are probabilities for images with equally many of each class. Those of
    the discriminant get the temperature that is most likely for labeled images out of fold.

    Args:
        name: One of `LINEAR`.
        data: Data of a feature bank.
    """
    if name == "logistic":
        return _logistic(data)
    labels, shrinkage = data.labeled.labels, _shrinkage(data)
    scores = out_of_fold_scores(_known(data), labels, data.num_classes, shrinkage=shrinkage)
    prior = np.exp(log_prior(data.labeled_counts.tolist()))
    temperature = fitted_temperature(scores, labels, prior)
    weights, bias = _discriminant(data)
    return LinearForm(weights / temperature, bias / temperature)


def logistic_regression(
    features: np.ndarray, labels: np.ndarray, labeled_counts: Sequence[int], tau: float = 1.0
) -> LinearForm:
    """Fits logistic regression with L2 regularization and logit adjustment.

    Args:
        features: float `(N, F)`.
        labels: int `(N,)`, classes in 0..K-1, each at least once.
        labeled_counts: Images of each class, K numbers.
        tau: Strength of the adjustment; 0 gives the scores of images like these.

    Example:

    >>> features = np.array([[-1.0], [-1.2], [1.0]])
    >>> weights, bias = logistic_regression(features, np.array([0, 0, 1]), [2, 1])
    >>> (features @ weights + bias).argmax(axis=1)
    array([0, 0, 1])
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1.0 / (_L2 * len(labels)), max_iter=200).fit(features, labels)
    weights, bias = fitted.coef_.T, fitted.intercept_
    if len(labeled_counts) == 2:  # scikit-learn has the difference of both scores
        weights, bias = (np.concatenate([-half, half], axis=-1) for half in (weights / 2, bias / 2))
    return LinearForm(weights, bias - tau * log_prior(labeled_counts))


@functools.lru_cache(maxsize=1)
def _logistic(data: BankedData) -> LinearForm:
    return logistic_regression(_known(data), data.labeled.labels, data.labeled_counts.tolist())


@functools.lru_cache(maxsize=1)
def _discriminant(data: BankedData) -> Discriminant:
    return Discriminant.fit(_known(data), data.labeled.labels, data.num_classes, _shrinkage(data))


def answers(data: BankedData, images: Rows) -> dict[str, np.ndarray]:
    """Returns the classes that four classifiers of the labeled images predict, all balanced.

    Args:
        data: Data of a feature bank.
        images: Some of its images; their plain views are classified.

    Returns:
        int `(N,)` by the keys of `NAMES`.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    labels, counts = data.labeled.labels, data.labeled_counts
    known = _known(data)
    features = feature_statistics(data).standardized(images.views[0][:, 0])
    unit_known, unit_features = normalize(known), normalize(features)
    means = normalize([unit_known[labels == k].mean(axis=0) for k in range(data.num_classes)])
    count = min(_NEIGHBORS, len(labels))
    neighbors = KNeighborsClassifier(
        count, weights="uniform", algorithm="brute", metric="euclidean"
    ).fit(unit_known, labels)
    votes = neighbors.predict_proba(unit_features)
    logistic = _logistic(data)
    return {
        "discriminant": _discriminant(data).scores(features).argmax(axis=1),
        "nearest_mean": (unit_features @ means.T).argmax(axis=1),
        # A vote counts the more, the rarer its class; the prior is undone as at test time.
        "neighbors": (votes / counts).argmax(axis=1),
        "logistic": (features @ logistic.weights + logistic.bias).argmax(axis=1),
    }
