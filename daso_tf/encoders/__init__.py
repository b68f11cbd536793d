"""How does a view become a feature? One file per family of networks, one entry in `FAMILIES`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import keras

from daso_tf.encoders.adapter import adapter
from daso_tf.encoders.applications import application
from daso_tf.encoders.batch_normalization import BatchNormalization, batch_norms_of
from daso_tf.encoders.pytorch_names import load_torchvision_weights
from daso_tf.encoders.resnet import resnet
from daso_tf.encoders.wide_resnet import wide_resnet
from daso_tf.platform.checks import checked_whole_number

__all__ = [
    "BatchNormalization",
    "adapter",
    "application",
    "build",
    "load_torchvision_weights",
    "resnet",
    "wide_resnet",
]


class Request(NamedTuple):
    """What an encoder is built for.

    Attributes:
        input_shape: `(height, width, 3)` of the images.
        mean: Mean of each color channel that the images are normalized with, in [0, 1].
        std: Standard deviation of each color channel that they are normalized with, in (0, 1].
        dtype: Keras dtype policy of the layers, or None for the policy that is in force.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: str | None


class Family(NamedTuple):
    """A family of encoders that `build` finds by name.

    Attributes:
        names: Regular expression of the names. Its groups are the arguments of `build`.
        usage: The form of the names with an example, for messages and `--help`.
        build: Builds the encoder, given the `Request` and the groups of the name.
        load_npz: Loads weights from a `.npz` file into an encoder, if the family has such files.
    """

    names: str
    usage: str
    build: Callable[..., keras.Model]
    load_npz: Callable[[keras.Model, str], None] | None = None


FAMILIES = (
    Family(
        r"wrn_(\d+)_(\d+)",
        "wrn_DEPTH_WIDTH, such as wrn_28_2",
        lambda request, depth, width: wide_resnet(
            int(depth), int(width), request.input_shape, request.dtype
        ),
    ),
    Family(
        r"resnet_(\d+)",
        "resnet_DEPTH with 18, 34, 50 or 101, such as resnet_34",
        lambda request, depth: resnet(int(depth), request.input_shape, request.dtype),
        load_npz=load_torchvision_weights,
    ),
    Family(
        r"applications:(.*)",
        "applications:NAME with a name in keras.applications, such as "
        "applications:MobileNetV3Small",
        lambda request, name: application(
            name, request.input_shape[0], request.mean, request.std, request.dtype
        ),
    ),
)


def build(
    name: str,
    resolution: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    weights: str | None = None,
    dtype: str | None = None,
    synchronized_batch_norm: bool = True,
) -> keras.Model:
    """Builds an encoder by name.

    Args:
        name: `wrn_DEPTH_WIDTH`, such as `wrn_28_2`; `resnet_DEPTH` with 18, 34, 50 or 101; or
            `applications:NAME` with a name in `keras.applications`.
        resolution: Height and width of the images in pixels.
        mean: Mean of each color channel that the images are normalized with, in [0, 1].
        std: Standard deviation of each color channel that they are normalized with, in (0, 1].
        weights: Path of a file with weights: one that `save_weights` of the same encoder wrote, or,
            for `resnet_DEPTH`, an `.npz` file (see `load_torchvision_weights`). By default the
            weights are random.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default the policy
            that is in force. The weights are float32 with any policy.
        synchronized_batch_norm: Whether the replicas of a distributed step normalize with the
            statistics of the whole batch. If not, each replica uses those of its own rows.

    Returns:
        A `keras.Model` from normalized images `(batch, resolution, resolution, 3)` to features
        `(batch, D)`.

    Raises:
        ValueError: If there is no encoder of that name, an argument is outside its range, or the
            file does not hold weights of this encoder.

    Example:

    >>> mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    >>> daso_tf.encoders.build("wrn_10_1", 32, mean, std).output_shape
    (None, 64)
    """
    resolution = checked_whole_number("resolution", resolution, least=1)
    family, groups = _family_of(name)
    encoder = family.build(Request((resolution, resolution, 3), mean, std, dtype), *groups)
    for batch_norm in batch_norms_of(encoder):
        batch_norm.synchronized = synchronized_batch_norm
    if weights:
        try:
            if family.load_npz and weights.endswith(".npz"):
                family.load_npz(encoder, weights)
            else:
                encoder.load_weights(weights)
        except Exception as error:  # Keras raises many kinds, depending on the file format
            raise ValueError(
                f"The encoder weights {weights} could not be loaded into {name}: {error}"
            ) from error
    return encoder


def _family_of(name: str) -> tuple[Family, tuple[str, ...]]:
    for family in FAMILIES:
        if match := re.fullmatch(family.names, name):
            return family, match.groups()
    allowed = "; ".join(family.usage for family in FAMILIES)
    raise ValueError(f"There is no encoder {name!r}. Allowed: {allowed}.")
