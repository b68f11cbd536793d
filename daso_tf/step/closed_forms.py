"""Classifiers on a feature bank that need no training steps."""

from __future__ import annotations

import functools

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from daso_tf.balance.logit_adjustment import log_prior
from daso_tf.data import BankedData, Rows
from daso_tf.pseudo_labels.discriminant import (
    Discriminant,
    Teacher,
    chosen_shrinkage,
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
        statistics.standardized(data.labeled.views[0][:, 0]),
        data.labeled.labels,
        (statistics.standardized(views[:, view]) for view in range(min(2, views.shape[1]))),
        data.num_classes,
        shrinkage=_shrinkage(data),
    )


@functools.lru_cache(maxsize=1)
def _shrinkage(data: BankedData) -> float:
    """Returns the shrinkage of linear discriminant analysis that the labeled images choose."""
    known = feature_statistics(data).standardized(data.labeled.views[0][:, 0])
    return chosen_shrinkage(known, data.labeled.labels, data.num_classes)


NAMES = {
    "discriminant": "linear discriminant",
    "nearest_mean": "nearest class mean",
    "neighbors": "20 nearest neighbors",
    "logistic": "logistic regression",
}
_NEIGHBORS = 20
_L2 = 0.1  # of logistic regression, on standardized features


def answers(data: BankedData, images: Rows) -> dict[str, np.ndarray]:
    """Returns the classes that four classifiers of the labeled images predict, all balanced.

    Args:
        data: Data of a feature bank.
        images: Some of its images; their plain views are classified.

    Returns:
        int `(N,)` by the keys of `NAMES`.
    """
    statistics = feature_statistics(data)
    labels, counts = data.labeled.labels, data.labeled_counts
    known = statistics.standardized(data.labeled.views[0][:, 0])
    features = statistics.standardized(images.views[0][:, 0])
    discriminant = Discriminant.fit(known, labels, data.num_classes, _shrinkage(data))
    unit_known, unit_features = normalize(known), normalize(features)
    means = normalize([unit_known[labels == k].mean(axis=0) for k in range(data.num_classes)])
    count = min(_NEIGHBORS, len(labels))
    neighbors = KNeighborsClassifier(
        count, weights="uniform", algorithm="brute", metric="euclidean"
    ).fit(unit_known, labels)
    votes = neighbors.predict_proba(unit_features)
    logistic = LogisticRegression(C=1.0 / (_L2 * len(labels)), max_iter=200).fit(known, labels)
    return {
        "discriminant": discriminant.scores(features).argmax(axis=1),
        "nearest_mean": (unit_features @ means.T).argmax(axis=1),
        # A vote counts the more, the rarer its class; the prior is undone as at test time.
        "neighbors": (votes / counts).argmax(axis=1),
        "logistic": (logistic.predict_log_proba(features) - log_prior(counts.tolist())).argmax(
            axis=1
        ),
    }
