"""How does a view become a feature? One file per family of networks, one entry in `FAMILIES`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import keras

from daso_tf.encoders.adapter import adapter
from daso_tf.encoders.applications import application, load_application_weights
from daso_tf.encoders.batch_normalization import BatchNormalization, batch_norms_of
from daso_tf.encoders.efficientnet_lite import (
    efficientnet_lite0,
    imagenet_file,
    load_efficientnet_weights,
)
from daso_tf.encoders.finetunable import finetunable
from daso_tf.encoders.folding import folded
from daso_tf.encoders.keras_hub import check_hub, hub_encoder, hub_resolution
from daso_tf.encoders.normalized_input import Normalization, NormalizedInput, normalization_of
from daso_tf.encoders.pytorch_names import load_torchvision_weights
from daso_tf.encoders.resnet import IMAGENET, resnet
from daso_tf.encoders.wide_resnet import wide_resnet
from daso_tf.platform.checks import (
    checked_channel_statistics,
    checked_number,
    checked_whole_number,
)

__all__ = [
    "BatchNormalization",
    "Normalization",
    "NormalizedInput",
    "adapter",
    "application",
    "build",
    "check",
    "default_resolution",
    "efficientnet_lite0",
    "finetunable",
    "folded",
    "hub_encoder",
    "load_torchvision_weights",
    "normalization_of",
    "resnet",
    "wide_resnet",
]


class Request(NamedTuple):
    """What an encoder is built for.

    Attributes:
        input_shape: `(height, width, 3)` of the images.
        statistics: Mean and standard deviation of the color channels of the training images, if
            they are known.
        dtype: Keras dtype policy of the layers, or None for the policy that is in force.
        weights: `"none"`, a name in `Family.pretrained`, or the path of a file that `build` will
            read.
    """

    input_shape: tuple[int, int, int]
    statistics: Normalization | None
    dtype: str | None
    weights: str


class Family(NamedTuple):
    """A family of encoders that `build` finds by name.

    Attributes:
        names: Regular expression of the names. Its groups are the arguments of `build`.
        usage: The form of the names with an example, for messages and `--help`.
        build: Builds the encoder, given the `Request` and the groups of the name.
        readers: Functions that load weights from a file into an encoder, by the end of the file's
            name, where Keras itself does not read it.
        pretrained: Names of weights that need no file.
        default_weights: Weights where none are given.
        default_resolution: Side in pixels of the images where none is given, given the groups.
        check: Raises an error if something that an encoder needs is not there, given its weights
            and the groups of the name.
    """

    names: str
    usage: str
    build: Callable[..., keras.Model]
    readers: Mapping[str, Callable[[keras.Model, str], None]] = MappingProxyType({})
    pretrained: tuple[str, ...] = ()
    default_weights: str = "none"
    default_resolution: Callable[..., int] = lambda *groups: 32
    check: Callable[..., None] = lambda weights, *groups: None


def _resnet(request: Request, depth: str) -> keras.Model:
    # Weights of torchvision as .npz came first, and are used with the statistics of the data.
    own = IMAGENET if request.weights.endswith(".safetensors") else None
    return resnet(int(depth), request.input_shape, request.dtype, own)


def _efficientnet_lite0(request: Request) -> keras.Model:
    weights = request.weights if request.weights == "imagenet" else None
    return efficientnet_lite0(request.input_shape, weights, request.dtype)


def _check_efficientnet_lite0(weights: str) -> None:
    if weights == "imagenet":
        imagenet_file()


def _application(request: Request, name: str) -> keras.Model:
    mean, std = request.statistics or (None, None)
    weights = request.weights if request.weights == "imagenet" else None
    return application(name, request.input_shape[0], mean, std, request.dtype, weights)


def _hub_encoder(request: Request, preset: str) -> keras.Model:
    pretrained = request.weights == "preset"
    return hub_encoder(preset, request.input_shape[0], pretrained, request.dtype)


def _check_hub_encoder(weights: str, preset: str) -> None:
    check_hub(preset)


FAMILIES = (
    Family(
        r"wrn_(\d+)_(\d+)(_raw)?",
        "wrn_DEPTH_WIDTH, such as wrn_28_2, or wrn_28_2_raw",
        lambda request, depth, width, raw: wide_resnet(
            int(depth), int(width), request.input_shape, request.dtype, raw=raw is not None
        ),
    ),
    Family(
        r"resnet_(\d+)",
        "resnet_DEPTH with 18, 34, 50 or 101, such as resnet_34",
        _resnet,
        readers={".npz": load_torchvision_weights, ".safetensors": load_torchvision_weights},
    ),
    Family(
        "efficientnet_lite0",
        "efficientnet_lite0, with weights from ImageNet",
        _efficientnet_lite0,
        readers={".pth": load_efficientnet_weights},
        pretrained=("imagenet",),
        default_weights="imagenet",
        default_resolution=lambda: 96,
        check=_check_efficientnet_lite0,
    ),
    Family(
        r"applications:(.*)",
        "applications:NAME with a name in keras.applications, such as "
        "applications:MobileNetV3Small",
        _application,
        readers={".h5": load_application_weights},
        pretrained=("imagenet",),
    ),
    Family(
        r"keras_hub:(.+)",
        "keras_hub:PRESET with the name of a preset of KerasHub or its folder, such as "
        "keras_hub:dinov2_small",
        _hub_encoder,
        pretrained=("preset",),
        default_weights="preset",
        default_resolution=hub_resolution,
        check=_check_hub_encoder,
    ),
)


def build(
    name: str,
    resolution: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    weights: str | None = None,
    dtype: str | None = None,
    synchronized_batch_norm: bool = True,
    batch_norm_momentum: float | None = None,
) -> keras.Model:
    """Builds an encoder by name.

    Args:
        name: `wrn_DEPTH_WIDTH`, such as `wrn_28_2`, or `wrn_28_2_raw`; `resnet_DEPTH` with 18, 34,
            50 or 101; `efficientnet_lite0`; `applications:NAME` with a name in
            `keras.applications`; or `keras_hub:PRESET` with the name or the folder of a preset of
            KerasHub (Keras 3).
        resolution: Height and width of the images in pixels. By default `default_resolution(name)`.
        mean: Mean of each color channel of the training images, in [0, 1]. Pretrained encoders
            with a normalization of their own (`normalization_of`) ignore it.
        std: Standard deviation of each color channel of the training images, in (0, 1], as `mean`.
        weights: `"none"` for random weights; `"imagenet"` for `efficientnet_lite0` and
            `applications:NAME`; `"preset"` for `keras_hub:PRESET`; or the path of a file: one that
            `save_weights` of the same encoder wrote, for `resnet_DEPTH` an `.npz` or `.safetensors`
            file (see `load_torchvision_weights`), for `applications:NAME` a published `.h5` file,
            for `efficientnet_lite0` a `.pth` file. By default `"imagenet"` for
            `efficientnet_lite0`, `"preset"` for `keras_hub:PRESET`, and else `"none"`.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default the policy
            that is in force. The weights are float32 with any policy.
        synchronized_batch_norm: Whether the replicas of a distributed step normalize with the
            statistics of the whole batch. If not, each replica uses those of its own rows.
        batch_norm_momentum: Weight of the old running statistics, in [0, 1]; None keeps that of the
            encoder, 0.9 in those of this library.

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
    family, groups = _family_of(name)
    weights = weights or family.default_weights
    side = checked_whole_number("resolution", resolution or default_resolution(name), least=1)
    statistics = None
    if mean is not None and std is not None:
        statistics = Normalization(*checked_channel_statistics(mean, std))
    encoder = family.build(Request((side, side, 3), statistics, dtype, weights), *groups)
    for batch_norm in batch_norms_of(encoder):
        batch_norm.synchronized = synchronized_batch_norm
        if batch_norm_momentum is not None:
            batch_norm.momentum = checked_number(
                "batch_norm_momentum", batch_norm_momentum, least=0, most=1
            )
    if weights not in ("none", *family.pretrained):
        _check_file(name, family, weights)
        load = family.readers.get(Path(weights).suffix, keras.Model.load_weights)
        try:
            load(encoder, weights)
        except Exception as error:  # Keras raises many kinds, depending on the file format
            raise ValueError(
                f"The encoder weights {weights} could not be loaded into {name}: {error}"
            ) from error
    return encoder


def check(name: str, weights: str | None = None) -> None:
    """Checks that `build` will find what an encoder needs, without building it.

    Args:
        name: As for `build`.
        weights: As for `build`.

    Raises:
        ValueError: If there is no encoder of that name, no such file, or a package is missing.

    Example:

    >>> check("wrn_10_1", "nowhere.weights.h5")
    Traceback (most recent call last):
    ...
    ValueError: There is no file nowhere.weights.h5, the weights of the encoder wrn_10_1. Allowed: \
none, or the path of a file.
    """
    family, groups = _family_of(name)
    weights = weights or family.default_weights
    family.check(weights, *groups)
    if weights not in ("none", *family.pretrained):
        _check_file(name, family, weights)


def default_resolution(name: str) -> int:
    """Returns the side in pixels of an encoder's images where none is given.

    Args:
        name: As for `build`.

    Raises:
        ValueError: If there is no encoder of that name.

    Example:

    >>> default_resolution("wrn_28_2"), default_resolution("efficientnet_lite0")
    (32, 96)
    """
    family, groups = _family_of(name)
    return family.default_resolution(*groups)


def _check_file(name: str, family: Family, path: str) -> None:
    if not Path(path).exists():
        allowed = ", ".join(("none", *family.pretrained))
        raise ValueError(
            f"There is no file {path}, the weights of the encoder {name}. Allowed: {allowed}, or "
            "the path of a file."
        )


def _family_of(name: str) -> tuple[Family, tuple[str, ...]]:
    for family in FAMILIES:
        if match := re.fullmatch(family.names, name):
            return family, match.groups()
    allowed = "; ".join(family.usage for family in FAMILIES)
    raise ValueError(f"There is no encoder {name!r}. Allowed: {allowed}.")
