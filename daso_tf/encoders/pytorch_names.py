"""The names that PyTorch networks give to our weights: the authors', and torchvision's."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

import keras
import numpy as np

from daso_tf.platform.keras_versions import own_name

_STATISTICS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Places in a block's list of layers: BatchNorm, activation, convolution, BatchNorm, ... . In the
# very first block the first BatchNorm stands before the list, since it feeds the shortcut too.
_BLOCK = {"norm1": "layer.0", "conv1": "layer.2", "norm2": "layer.3", "conv2": "layer.5"}
_FIRST_BLOCK = {"norm1": "pre_act.0", "conv1": "layer.0", "norm2": "layer.1", "conv2": "layer.3"}


def pytorch_weights(
    encoder: keras.Model, classifier: keras.layers.Dense | None = None
) -> dict[str, keras.Variable]:
    """Pairs the authors' names with our variables.

    Args:
        encoder: A `wide_resnet`.
        classifier: The layer behind it, if that is wanted too.

    Returns:
        Every weight and BatchNorm statistic by its PyTorch name, such as
        `encoder.unit2.0.layer.2.weight`.

    Example:

    >>> encoder, classifier = wide_resnet(10, 1), keras.layers.Dense(10)
    >>> classifier.build((None, 64))
    >>> list(pytorch_weights(encoder, classifier))[0]
    'encoder.init_conv.weight'
    """
    weights = {}
    for layer in encoder.layers:
        for variable in layer.weights:
            weights[f"encoder.{_layer_name(layer.name)}.{_kind(variable)}"] = variable
    if classifier is not None:
        weights["classifier.classifier.weight"] = classifier.kernel
        weights["classifier.classifier.bias"] = classifier.bias
    return weights


def torchvision_weights(encoder: keras.Model) -> dict[str, keras.Variable]:
    """Pairs torchvision's names with our variables.

    Args:
        encoder: A `resnet`.

    Returns:
        Every weight and BatchNorm statistic by its name in the state dict of torchvision's network
        of that depth, such as `layer1.0.downsample.0.weight`.

    Example:

    >>> list(torchvision_weights(resnet(18)))[:2]
    ['conv1.weight', 'bn1.weight']
    """
    return {
        f"{layer.name.replace('_', '.')}.{_kind(variable)}": variable
        for layer in encoder.layers
        for variable in layer.weights
    }


def load_torchvision_weights(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Loads the state dict of a torchvision network, such as one trained on ImageNet.

    Where PyTorch is, this writes the file:

        state = torchvision.models.resnet34(weights="IMAGENET1K_V1").state_dict()
        numpy.savez("resnet34.npz", **{name: value.numpy() for name, value in state.items()})

    Args:
        encoder: A `resnet` of the same depth; nothing is loaded into it if anything is wrong.
        path: An `.npz` file: arrays in PyTorch's layout by torchvision's names. The classifier
            (`fc.*`) and the counters `num_batches_tracked` are not used.

    Raises:
        ValueError: If names are missing, unknown or have an array of another shape.

    Example:

    >>> load_torchvision_weights(resnet(34), "resnet34.npz")  # doctest: +SKIP
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if not name.startswith("fc.")}
    assign(torchvision_weights(encoder), arrays, encoder.name)


def assign(
    weights: dict[str, keras.Variable], arrays: Mapping[str, np.ndarray], owner: str
) -> None:
    """Gives weights the values of a state dict; nothing is changed if anything is wrong.

    Args:
        weights: Our variables by PyTorch's names.
        arrays: As many arrays by the same names, in PyTorch's layout. The counters
            `num_batches_tracked` are not used.
        owner: What the weights belong to, for messages.

    Raises:
        ValueError: If names are missing, unknown or have an array of another shape.
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
    """Turns a weight's axes from (..., in, out) to PyTorch's (out, in, ...)."""
    return value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim))


def from_pytorch(value: np.ndarray) -> np.ndarray:
    """Turns a weight's axes from PyTorch's (out, in, ...) to (..., in, out)."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim))


def _kind(variable: keras.Variable) -> str:
    """Returns PyTorch's name for the part that a variable has in its layer."""
    return _STATISTICS.get(own_name(variable), "weight")


def _listed(names: Collection[str], most: int = 4) -> str:
    """Lists the first few names."""
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
