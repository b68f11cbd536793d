"""The names that the authors' PyTorch network gives to the weights of ours."""

from __future__ import annotations

import re

import keras
import numpy as np

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
    encoder: keras.Model, classifier: keras.layers.Dense
) -> dict[str, keras.Variable]:
    """Pairs the authors' names with our variables.

    Args:
        encoder: A `wide_resnet`.
        classifier: The layer behind it.

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
            kind = variable.name.split("/")[-1].split(":")[0]
            weights[f"encoder.{_layer_name(layer.name)}.{_STATISTICS.get(kind, 'weight')}"] = (
                variable
            )
    weights["classifier.classifier.weight"] = classifier.kernel
    weights["classifier.classifier.bias"] = classifier.bias
    return weights


def to_pytorch(value: np.ndarray) -> np.ndarray:
    """Turns a weight's axes from (..., in, out) to PyTorch's (out, in, ...)."""
    return value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim))


def from_pytorch(value: np.ndarray) -> np.ndarray:
    """Turns a weight's axes from PyTorch's (out, in, ...) to (..., in, out)."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim))


def _layer_name(name: str) -> str:
    if match := re.fullmatch(r"group(\d)_block(\d+)_(\w+)", name):
        group, block, part = match.groups()
        if part == "shortcut":
            return f"unit{group}.{block}.identity"
        places = _FIRST_BLOCK if (group, block) == ("1", "0") else _BLOCK
        return f"unit{group}.{block}.{places[part]}"
    return {"init_conv": "init_conv", "final_norm": "unit4.0"}[name]
