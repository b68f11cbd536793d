"""PyTorch names of weights: those of the DASO authors' implementation and of torchvision."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import keras
import numpy as np

from daso_tf.platform.extras import import_extra
from daso_tf.platform.keras_versions import own_name

_STATISTICS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Positions in the list of layers of a block: BatchNorm, activation, convolution, BatchNorm, ... In
# the first block of the network, the first BatchNorm is outside the list, as it feeds the shortcut.
_BLOCK = {"norm1": "layer.0", "conv1": "layer.2", "norm2": "layer.3", "conv2": "layer.5"}
_FIRST_BLOCK = {"norm1": "pre_act.0", "conv1": "layer.0", "norm2": "layer.1", "conv2": "layer.3"}


def pytorch_weights(
    encoder: keras.Model, classifier: keras.layers.Dense | None = None
) -> dict[str, keras.Variable]:
    """Maps the names in the DASO authors' implementation to variables.

    Args:
        encoder: A `wide_resnet`.
        classifier: The layer on top of it, to include its variables.

    Returns:
        Every weight and BatchNorm statistic by its PyTorch name, such as
        `encoder.unit2.0.layer.2.weight`.

    Example:

    >>> encoder, classifier = daso_tf.encoders.wide_resnet(10, 1), keras.layers.Dense(10)
    >>> classifier.build((None, 64))
    >>> list(pytorch_weights(encoder, classifier))[0]
    'encoder.init_conv.weight'
    """
    weights = {}
    for layer in encoder.layers:
        for variable in layer.weights:
            weights[f"encoder.{_layer_name(layer.name)}.{kind_of(variable)}"] = variable
    if classifier is not None:
        weights["classifier.classifier.weight"] = classifier.kernel
        weights["classifier.classifier.bias"] = classifier.bias
    return weights


def torchvision_weights(encoder: keras.Model) -> dict[str, keras.Variable]:
    """Maps the names in torchvision to variables.

    Args:
        encoder: A `resnet`.

    Returns:
        Every weight and BatchNorm statistic by its name in the state dict of the torchvision
        network with the same depth, such as `layer1.0.downsample.0.weight`.

    Example:

    >>> list(torchvision_weights(daso_tf.encoders.resnet(18)))[:2]
    ['conv1.weight', 'bn1.weight']
    """
    return {
        f"{layer.name.replace('_', '.')}.{kind_of(variable)}": variable
        for layer in encoder.layers
        for variable in layer.weights
    }


def load_torchvision_weights(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Loads the state dict of a torchvision or timm network, such as one trained on ImageNet.

    timm publishes its networks as `.safetensors`. To write an `.npz` file of a torchvision network,
    run this where PyTorch is installed::

        state = torchvision.models.resnet34(weights="IMAGENET1K_V1").state_dict()
        numpy.savez("resnet34.npz", **{name: value.numpy() for name, value in state.items()})

    Args:
        encoder: A `resnet` of the same depth. If there is an error, it stays unchanged.
        path: Path of an `.npz` or `.safetensors` file with one array per name, in the axis order of
            PyTorch. The classifier (`fc.*`) and the counters `num_batches_tracked` are ignored.

    Raises:
        ValueError: If names are missing or unknown, or an array has another shape.
        OSError: If the file cannot be read.

    Example:

    >>> encoder = daso_tf.encoders.resnet(34)
    >>> daso_tf.encoders.load_torchvision_weights(encoder, "resnet34.npz")  # doctest: +SKIP
    """
    if Path(path).suffix == ".safetensors":
        safetensors = import_extra("safetensors.numpy", "safetensors", f"reading {path}")
        arrays = safetensors.load_file(path)
    else:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    arrays = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
    assign(torchvision_weights(encoder), arrays, encoder.name)


def assign(
    weights: dict[str, keras.Variable], arrays: Mapping[str, np.ndarray], owner: str
) -> None:
    """Assigns the arrays of a state dict to variables. If there is an error, none is changed.

    Args:
        weights: The variables by their PyTorch names.
        arrays: One array per name, in the axis order of PyTorch. The counters
            `num_batches_tracked` are ignored.
        owner: The network that has the variables, for messages.

    Raises:
        ValueError: If names are missing or unknown, or an array has another shape.
    """
    names = {name for name in arrays if not name.endswith(".num_batches_tracked")}
    problems = [
        f"{what} {_listed(those)}"
        for what, those in (
            ("it lacks", weights.keys() - names),
            (f"{owner} does not have", names - weights.keys()),
        )
        if those
    ]
    if problems:
        raise ValueError("; ".join(problems))
    values = {name: from_pytorch(arrays[name]) for name in weights}
    reshaped = [
        f"{name} {to_pytorch(value).shape} instead of {to_pytorch(np.asarray(weights[name])).shape}"
        for name, value in values.items()
        if value.shape != tuple(weights[name].shape)
    ]
    if reshaped:
        raise ValueError(f"it has other shapes: {_listed(reshaped)}")
    for name, variable in weights.items():
        variable.assign(values[name].astype(np.float32))


def to_pytorch(value: np.ndarray) -> np.ndarray:
    """Reorders the axes of a weight from (..., in, out) to (out, in, ...), as in PyTorch."""
    return value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim))


def from_pytorch(value: np.ndarray) -> np.ndarray:
    """Reorders the axes of a weight from (out, in, ...), as in PyTorch, to (..., in, out)."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim))


def kind_of(variable: keras.Variable) -> str:
    """Returns the PyTorch name of a variable within its layer."""
    return _STATISTICS.get(own_name(variable), "weight")


def _listed(names: Collection[str], most: int = 4) -> str:
    """Lists the first names and counts the others."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + rest


def _layer_name(name: str) -> str:
    if match := re.fullmatch(r"group(\d)_block(\d+)_(\w+)", name):
        group, block, part = match.groups()
        if part == "shortcut":
            return f"unit{group}.{block}.identity"
        places = _FIRST_BLOCK if (group, block) == ("1", "0") else _BLOCK
        return f"unit{group}.{block}.{places[part]}"
    return {"init_conv": "init_conv", "final_norm": "unit4.0"}[name]
