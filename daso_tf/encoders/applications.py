"""The networks of `keras.applications` as encoders."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from daso_tf.encoders.normalized_input import NormalizedInput
from daso_tf.encoders.precision import dtype_policy
from daso_tf.platform.keras_versions import KERAS_3

_SECONDS_TO_CONNECT = 5.0


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

    requires = False  # earlier versions took whatever statistics a learner was given

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
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: str | None = None,
    weights: str | os.PathLike | None = None,
) -> keras.Model:
    """Builds a network of `keras.applications` as an encoder.

    Args:
        name: Name in `keras.applications`, such as `"MobileNetV3Small"`.
        resolution: Height and width of the images in pixels. Each network has its own minimum.
        mean: Mean of each color channel that the images are normalized with, in [0, 1]. The encoder
            reverses this normalization, so any will do. By default images have values in [0, 1],
            and a learner takes this from the encoder.
        std: Standard deviation of each color channel that they are normalized with, in (0, 1].
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default the policy
            that is in force. The weights are float32 with any policy.
        weights: `"imagenet"` for the published weights, which Keras downloads once; the path of
            such a file (`..._notop.h5`), or of one that `save_weights` of the same encoder wrote;
            None for random weights.

    Returns:
        A `keras.Model` from normalized images `(batch, resolution, resolution, 3)` to features
        `(batch, D)` by global average pooling. D depends on the network.

    Raises:
        ValueError: If there is no network of that name, an argument is outside its range, or the
            weights cannot be downloaded or loaded.

    Example:

    >>> mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    >>> encoder = daso_tf.encoders.application("MobileNetV3Small", 32, mean, std)
    >>> encoder.output_shape
    (None, 576)
    """
    builder = _checked_builder(name)
    with dtype_policy(dtype):
        images = keras.Input((resolution, resolution, 3), name="images")
        arguments = {"include_top": False, "input_shape": images.shape[1:], "pooling": "avg"}
        if weights == "imagenet":
            backbone = _published(name, builder, arguments)
        else:
            backbone = builder(weights=None, **arguments)
        x = images
        if mean is None or std is None:
            mean, std = (0.0,) * 3, (1.0,) * 3
            x = NormalizedInput(mean, std, name="normalized_input")(x)
        features = backbone(ApplicationsInput(name, mean, std, name="application_input")(x))
        encoder = keras.Model(images, features, name=name)
    if weights is not None and weights != "imagenet":
        load_application_weights(encoder, weights)
    return encoder


def load_application_weights(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Loads a file as `keras.applications` publishes it, or as `save_weights` wrote it.

    Args:
        encoder: A model that `application` returned.
        path: The file: without the classifier (`..._notop.h5`), or of this encoder.

    Raises:
        ValueError: If the file holds other weights.
        OSError: If it cannot be read.
    """
    path = str(path)
    if path.endswith(".h5") and not path.endswith(".weights.h5"):
        backbone = next(layer for layer in encoder.layers if isinstance(layer, keras.Model))
        backbone.load_weights(path)
    else:
        encoder.load_weights(path)


def _published(name: str, builder: Any, arguments: dict[str, Any]) -> keras.Model:
    """Builds a network with the published weights, from Keras's folder or the network."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_TO_CONNECT)
    try:
        return builder(weights="imagenet", **arguments)
    except Exception as error:  # Keras raises Exception itself
        reason = " ".join(str(error).split()) or type(error).__name__
        found = re.search(r"https?://\S+?/([\w.-]+\.h5)", reason)
        file = found[1] if found else "the file that Keras names"
        home = os.environ.get("KERAS_HOME", "~/.keras") if KERAS_3 else "~/.keras"
        raise ValueError(
            f"The ImageNet weights of {name} are not available: {reason:.300}. Put {file} into "
            f"{Path(home, 'models')}, or give its path as the encoder's weights."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _checked_builder(name: str) -> Any:
    """Returns the function of `keras.applications` that builds a network."""
    builder = getattr(keras.applications, name, None)
    if not callable(builder):
        known = sorted(key for key in vars(keras.applications) if key[0].isupper())
        raise ValueError(
            f"keras.applications has no network {name!r}. Allowed: {', '.join(known)}."
        )
    return builder
