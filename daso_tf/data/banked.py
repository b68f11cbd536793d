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
        unknown: `Rows` of images of none of the classes, or None.
        encoder: The frozen encoder that computed the features, a `keras.Model` from normalized
            images to features.
        resolution: Side in pixels of the encoder's input.

    Example:

    `daso_tf.feature_bank` makes it; by hand:

    >>> rows = daso_tf.data.Rows([np.zeros((2, 1, 4), np.float16)], [0, 1], size=(8, 8))
    >>> statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    >>> parts = {"labeled": rows, "unlabeled": rows, "validation": None, "test": None}
    >>> encoder = daso_tf.encoders.wide_resnet(10, 1, (8, 8, 3))
    >>> more = {"class_names": ("ant", "bee"), "encoder": encoder, "resolution": 8}
    >>> BankedData(**parts, **statistics, **more).num_classes
    2
    """

    # Rows have the interface of images.
    labeled: Rows  # type: ignore[assignment]
    unlabeled: Rows  # type: ignore[assignment]
    validation: Rows | None  # type: ignore[assignment]
    test: Rows | None  # type: ignore[assignment]
    unknown: Rows | None = None  # type: ignore[assignment]
    encoder: Callable[..., Any] = dataclasses.field(kw_only=True)
    resolution: int = dataclasses.field(kw_only=True)

    @property
    def pictures(self) -> SemiSupervisedData:
        """The pictures whose features these are."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(SemiSupervisedData):
            value = getattr(self, field.name)
            values[field.name] = value.pictures if isinstance(value, Rows) else value
        return SemiSupervisedData(**values)
