"""How does a view become a feature? One file for each family of networks."""

from __future__ import annotations

import re

import keras

from daso_tf.encoders.applications import application
from daso_tf.encoders.batch_normalization import BatchNormalization, batch_norms_of
from daso_tf.encoders.pytorch_names import load_torchvision_weights
from daso_tf.encoders.resnet import resnet
from daso_tf.encoders.wide_resnet import wide_resnet

__all__ = ["BatchNormalization", "application", "build", "resnet", "wide_resnet"]


def build(
    name: str,
    resolution: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    weights: str | None = None,
    dtype: str | None = None,
    synchronized_batch_norm: bool = True,
) -> keras.Model:
    """Builds the encoder of a name.

    Args:
        name: `wrn_DEPTH_WIDTH`, such as `wrn_28_2`; `resnet_DEPTH` with 18, 34, 50 or 101; or
            `applications:NAME` with a name in `keras.applications`.
        resolution: Side of the images in pixels.
        mean: Mean of each colour channel that the images are normalised with, in [0, 1].
        std: Standard deviation of each colour channel that they are normalised with.
        weights: File that the encoder's own `save_weights` wrote or, for a `resnet_DEPTH`, an
            `.npz` file of torchvision's weights; by default weights are random.
        dtype: Keras dtype policy of its layers, such as `mixed_bfloat16`; by default the one that
            is in force. Its weights are float32 in any case.
        synchronized_batch_norm: Whether the replicas of a distributed step normalise with the
            statistics of the whole batch, as one alone would; if not, each with those of its rows.

    Returns:
        A `keras.Model` from normalised images `(batch, resolution, resolution, 3)` to features
        `(batch, D)`.

    Raises:
        ValueError: If the name is none of these, or the weights are not this encoder's.

    Example:

    >>> build("wrn_10_1", 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).output_shape
    (None, 64)
    """
    if match := re.fullmatch(r"wrn_(\d+)_(\d+)", name):
        encoder = wide_resnet(int(match[1]), int(match[2]), (resolution, resolution, 3), dtype)
    elif match := re.fullmatch(r"resnet_(\d+)", name):
        encoder = resnet(int(match[1]), (resolution, resolution, 3), dtype)
    elif name.startswith("applications:"):
        encoder = application(name.removeprefix("applications:"), resolution, mean, std, dtype)
    else:
        raise ValueError(
            f"There is no encoder {name!r}. Allowed: wrn_DEPTH_WIDTH, such as wrn_28_2; "
            "resnet_DEPTH with 18, 34, 50 or 101, such as resnet_34; or applications:NAME with a "
            "name in keras.applications, such as applications:MobileNetV3Small."
        )
    for batch_norm in batch_norms_of(encoder):
        batch_norm.synchronized = synchronized_batch_norm
    if weights:
        try:
            if name.startswith("resnet_") and weights.endswith(".npz"):
                load_torchvision_weights(encoder, weights)
            else:
                encoder.load_weights(weights)
        except Exception as error:  # Keras raises many kinds, by file format
            raise ValueError(
                f"The encoder weights {weights} could not be loaded into {name}: {error}"
            ) from error
    return encoder
