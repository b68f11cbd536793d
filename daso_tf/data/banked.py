"""Data whose images are rows of a feature bank."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from daso_tf.data.rows import Rows
from daso_tf.data.semi_supervised import SemiSupervisedData


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BankedData(SemiSupervisedData):
    """Data whose images are rows of a feature bank; otherwise as `SemiSupervisedData`.

    Args:
        labeled: `Rows` of images of known classes.
        unlabeled: `Rows` of images whose labels, if any, only serve to measure pseudo-labels.
        validation: `Rows` of validation images, or None.
        test: `Rows` of test images, or None.
        class_names: K names, in the order of the labels.
        mean: Channel means that the frozen encoder takes, in 0..1.
        std: Channel standard deviations that the frozen encoder takes, in 0..1.
        labeled_among_unlabeled: As for `SemiSupervisedData`.
        encoder: The frozen encoder that computed the features, a `keras.Model` from normalized
            images to features.
        resolution: Side in pixels of the encoder's input.

    Example:

    ```python
    banked = daso_tf.feature_bank(data, daso_tf.encoders.efficientnet_lite0(), cache_dir="bank")
    ```
    """

    # Rows have the interface of images.
    labeled: Rows  # type: ignore[assignment]
    unlabeled: Rows  # type: ignore[assignment]
    validation: Rows | None  # type: ignore[assignment]
    test: Rows | None  # type: ignore[assignment]
    encoder: Callable[..., Any] = dataclasses.field(kw_only=True)
    resolution: int = dataclasses.field(kw_only=True)
