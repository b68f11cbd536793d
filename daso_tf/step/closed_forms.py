"""Classifiers on a feature bank that need no training steps."""

from __future__ import annotations

import functools

import numpy as np

from daso_tf.data import BankedData
from daso_tf.pseudo_labels.discriminant import Teacher, teach
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
        np.stack(
            [statistics.standardized(views[:, view]) for view in range(min(2, views.shape[1]))]
        ),
        data.num_classes,
    )
