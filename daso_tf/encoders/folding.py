"""A frozen encoder computes faster when BatchNorm is part of its convolutions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.encoders.batch_normalization import activated

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def folded(encoder: keras.Model) -> keras.Model:
    """Returns a copy of an encoder for inference, without BatchNorm after convolutions.

    In inference, BatchNorm multiplies each channel by a number and adds another one. The copy has
    them in the kernel and the bias of the convolution before it. Its features differ by rounding.

    Args:
        encoder: Any encoder. It is not changed.

    Returns:
        The copy, which cannot be saved, or the encoder itself where nothing can be folded: no
        BatchNorm follows a convolution directly, or the model is not made by the functional API.

    Example:

    >>> encoder = daso_tf.encoders.resnet(18, (32, 32, 3))
    >>> len(encoder.weights), len(daso_tf.encoders.folded(encoder).weights)
    (100, 40)
    """
    pairs = _pairs(encoder)
    if not pairs:
        return encoder
    norms = {norm.name: norm for norm in pairs.values()}

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name in pairs:
            config["use_bias"] = True
        if layer.name not in norms:
            return type(layer).from_config(config)
        return _Rest(getattr(layer, "negative_slope", None), name=layer.name, dtype=config["dtype"])

    copy = keras.models.clone_model(encoder, clone_function=copied)
    for layer in encoder.layers:
        if layer.name in pairs:
            copy.get_layer(layer.name).set_weights(_kernel_and_bias(layer, pairs[layer.name]))
        elif layer.weights and layer.name not in norms:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


class _Rest(keras.layers.Layer):
    """What is left of a BatchNorm: the activation that this library's layer includes."""

    def __init__(self, negative_slope: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.negative_slope = negative_slope

    def call(self, inputs: tf.Tensor, training: bool = False, mask: Any = None) -> tf.Tensor:
        return activated(inputs, self.negative_slope)


def _pairs(encoder: keras.Model) -> dict[str, keras.layers.BatchNormalization]:
    """Returns the BatchNorm that alone follows a convolution, by the convolution's name."""
    if not getattr(encoder, "outputs", None):
        return {}
    readers: dict[int, list[keras.layers.Layer]] = {}
    for layer in encoder.layers:
        inputs = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        for tensor in inputs:
            readers.setdefault(id(tensor), []).append(layer)
    found = {}
    for layer in encoder.layers:
        if isinstance(layer, _CONVOLUTIONS) and layer.activation is keras.activations.linear:
            match readers.get(id(layer.output), []):
                case [keras.layers.BatchNormalization() as norm]:
                    alone = not isinstance(norm.input, list)  # not one of two that it adds
                    if alone and all(layer.output is not output for output in encoder.outputs):
                        found[layer.name] = norm
    return found


def _kernel_and_bias(
    convolution: keras.layers.Layer, norm: keras.layers.BatchNormalization
) -> list[np.ndarray]:
    kernel, *bias = (np.asarray(weight, np.float64) for weight in convolution.get_weights())
    variance, mean = np.asarray(norm.moving_variance), np.asarray(norm.moving_mean)
    scale = 1 / np.sqrt(variance.astype(np.float64) + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma)
    offset = (bias[0] - mean if bias else -mean) * scale
    if norm.center:
        offset = offset + np.asarray(norm.beta)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):  # its last two axes are the channels
        kernel = kernel * scale.reshape(kernel.shape[-2:])
    else:
        kernel = kernel * scale
    return [kernel.astype(np.float32), offset.astype(np.float32)]
