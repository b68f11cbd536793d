"""The networks of `keras.applications` as encoders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.encoders.normalized_input import NormalizedInput
from daso_tf.encoders.precision import dtype_policy


@keras.saving.register_keras_serializable(package="daso_tf")
class ApplicationsInput(NormalizedInput):
    """Converts normalized images to the input of a network in `keras.applications`.

    Some of these networks expect values in 0..255, some in -1..1, and some subtract a mean
    themselves. Each comes with a function `preprocess_input` for values in 0..255. This layer
    reverses the normalization and calls that function.

    Args:
        application: Name in `keras.applications`, such as `"MobileNetV3Small"`.
        mean: Mean of each color channel that the images were normalized with, in [0, 1].
        std: Standard deviation of each color channel that they were normalized with, in (0, 1].
        dtype: Keras dtype policy of this layer.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Call arguments:
        images: float `[N, H, W, 3]`, normalized.

    Returns:
        float `[N, H, W, 3]`.

    Raises:
        ValueError: If there is no network of that name, or `mean` or `std` is outside its range.

    Example:

    >>> layer = ApplicationsInput("MobileNetV2", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> layer(tf.zeros([1, 1, 1, 3])).numpy().tolist()  # gray, in -1..1
    [[[[0.0, 0.0, 0.0]]]]
    """

    def __init__(
        self,
        application: str,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: Any = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(mean, std, dtype, **kwargs)
        _checked_builder(application)
        self.application = application

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the images as the network expects them."""
        module: Any = sys.modules[getattr(keras.applications, self.application).__module__]
        return module.preprocess_input((images * self.std + self.mean) * 255.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "application": self.application}


def application(
    name: str,
    resolution: int = 224,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    dtype: str | None = None,
) -> keras.Model:
    """Builds a network of `keras.applications` as an encoder, with random weights.

    Args:
        name: Name in `keras.applications`, such as `"MobileNetV3Small"`.
        resolution: Height and width of the images in pixels. Each network has its own minimum.
        mean: Mean of each color channel that the images are normalized with, in [0, 1]. The encoder
            reverses this normalization, so any will do; the default is that of values in [0, 1].
        std: Standard deviation of each color channel that they are normalized with, in (0, 1].
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default the policy
            that is in force. The weights are float32 with any policy.

    Returns:
        A `keras.Model` from normalized images `(batch, resolution, resolution, 3)` to features
        `(batch, D)` by global average pooling. D depends on the network.

    Raises:
        ValueError: If there is no network of that name, or an argument is outside its range.

    Example:

    >>> mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    >>> encoder = daso_tf.encoders.application("MobileNetV3Small", 32, mean, std)
    >>> encoder.output_shape
    (None, 576)
    """
    builder = _checked_builder(name)
    with dtype_policy(dtype):
        images = keras.Input((resolution, resolution, 3), name="images")
        backbone = builder(
            include_top=False,
            weights=None,
            input_shape=(resolution, resolution, 3),
            pooling="avg",
        )
        features = backbone(ApplicationsInput(name, mean, std, name="application_input")(images))
        return keras.Model(images, features, name=name)


def _checked_builder(name: str) -> Any:
    """Returns the function of `keras.applications` that builds a network."""
    builder = getattr(keras.applications, name, None)
    if not callable(builder):
        known = sorted(key for key in vars(keras.applications) if key[0].isupper())
        raise ValueError(
            f"keras.applications has no network {name!r}. Allowed: {', '.join(known)}."
        )
    return builder
