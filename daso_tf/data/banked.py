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
        encoder: The frozen encoder that computed the features, a `keras.Model` from normalized
            images to features.
        resolution: Side in pixels of the encoder's input.
    """

    # Rows have the interface of images.
    labeled: Rows  # type: ignore[assignment]
    unlabeled: Rows  # type: ignore[assignment]
    validation: Rows | None  # type: ignore[assignment]
    test: Rows | None  # type: ignore[assignment]
    encoder: Callable[..., Any] = dataclasses.field(kw_only=True)
    resolution: int = dataclasses.field(kw_only=True)
