"""What a learner uses of a feature bank: its views, and statistics of its features."""

from __future__ import annotations

import keras

from daso_tf.augment import RandAugment, StoredView
from daso_tf.data import BankedData, SemiSupervisedData
from daso_tf.encoders.adapter import FeatureStatistics


def stored_weak(data: BankedData) -> StoredView:
    """Returns the layer that takes the place of weak augmentation.

    Args:
        data: Data of a feature bank.
    """
    return StoredView(first=1, count=data.unlabeled.views[1].shape[1])


def stored_strong(data: BankedData) -> StoredView:
    """Returns the layer that takes the place of strong augmentation.

    Args:
        data: Data of a feature bank.

    Raises:
        ValueError: If the bank has no strong views.
    """
    if len(data.unlabeled.views) < 3:
        raise ValueError("The feature bank has no strong views: give it strong_views=4.")
    plain, weak, strong = (kind.shape[1] for kind in data.unlabeled.views)
    return StoredView(first=plain + weak, count=strong)


def check_strong_labeled(data: SemiSupervisedData | None) -> None:
    """Refuses a bank whose labeled images have no strong views, for learners that need them.

    Args:
        data: The data of a learner.

    Raises:
        ValueError: If it is such a bank.
    """
    if isinstance(data, BankedData) and len(data.labeled.views) < 3:
        raise ValueError(
            "The labeled images of the feature bank have no strong views, which a part of the "
            "learner needs: give it strong_labeled_views=4."
        )


def default_strong(data: SemiSupervisedData | None) -> keras.layers.Layer:
    """Returns the layer that makes strong views where none is given."""
    return stored_strong(data) if isinstance(data, BankedData) else RandAugment()


def feature_statistics(data: BankedData) -> FeatureStatistics:
    """Returns the statistics of the plain views of all training images.

    Args:
        data: Data of a feature bank.
    """
    return FeatureStatistics.of([data.labeled.views[0][:, 0], data.unlabeled.views[0][:, 0]])
