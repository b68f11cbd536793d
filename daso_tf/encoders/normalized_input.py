"""How the images are normalized that an encoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform.checks import checked_channel_statistics
from daso_tf.platform.keras_versions import layers_of


class Normalization(NamedTuple):
    """How images are normalized: `(image / 255 - mean) / std`.

    Attributes:
        mean: Mean of each color channel, in [0, 1].
        std: Standard deviation of each color channel, in (0, 1].
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@keras.saving.register_keras_serializable(package="daso_tf")
class NormalizedInput(keras.layers.Layer):
    """Declares how the images are normalized that an encoder takes. It does not change them.

    An encoder that was trained elsewhere needs the normalization of that training. As the first
    layer of the encoder, this one is saved and copied with it, and learners normalize accordingly.

    Args:
        mean: Mean of each color channel that the images are normalized with, in [0, 1].
        std: Standard deviation of each color channel that they are normalized with, in (0, 1].
        dtype: Keras dtype policy of this layer.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Call arguments:
        images: float `(batch, height, width, 3)`, normalized.

    Returns:
        The images.

    Raises:
        ValueError: If `mean` or `std` is outside its range.

    Example:

    >>> images = keras.Input((8, 8, 3))
    >>> x = NormalizedInput((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(images)
    >>> normalization_of(keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)))
    Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    """

    # Whether a learner must refuse other statistics.
    requires = True

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], dtype: Any = "float32", **kwargs: Any
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.mean, self.std = checked_channel_statistics(mean, std)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the images."""
        return images

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "mean": self.mean, "std": self.std}


def normalization_of(encoder: keras.Model) -> Normalization | None:
    """Returns how the images are normalized that an encoder takes; None if it does not say.

    Args:
        encoder: Any model.

    Example:

    >>> normalization_of(daso_tf.encoders.wide_resnet(10, 1)) is None  # it learns any
    True
    """
    layer = _declaration_in(encoder)
    return None if layer is None else Normalization(layer.mean, layer.std)


def check_normalization(encoder: keras.Model, given: Sequence[Sequence[float]]) -> None:
    """Checks that images are normalized as an encoder requires.

    Args:
        encoder: Any model.
        given: Mean and standard deviation of each color channel.

    Raises:
        ValueError: If the encoder requires others.
    """
    layer = _declaration_in(encoder)
    if layer is None or not layer.requires:
        return
    if not np.allclose(given, (layer.mean, layer.std), rtol=0, atol=1e-6):
        raise ValueError(
            f"The encoder {encoder.name} takes images that are normalized with mean {layer.mean} "
            f"and std {layer.std}, not with {given[0]} and {given[1]}: leave mean and std out."
        )


def _declaration_in(encoder: keras.Model) -> NormalizedInput | None:
    return next((layer for layer in layers_of(encoder) if isinstance(layer, NormalizedInput)), None)
