"""Residual networks, the encoder of the Semi-Aves experiments in the DASO paper."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.encoders.batch_normalization import BatchNormalization
from daso_tf.encoders.normalized_input import Normalization, NormalizedInput
from daso_tf.encoders.precision import dtype_policy
from daso_tf.platform.keras_versions import scaled_normal

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_BOTTLENECK_DEPTHS = (50, 101)
# Of torchvision's and most of timm's weights.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def resnet(
    depth: int = 50,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    dtype: str | None = None,
    normalization: Normalization | None = None,
) -> keras.Model:
    """Builds a residual network (ResNet), which maps normalized images to features.

    A 7x7 convolution and a max pooling, both with stride 2, are followed by four stages of residual
    blocks. At depths 18 and 34 a block has two 3x3 convolutions. At depths 50 and 101 it is a
    bottleneck with 1x1, 3x3 and 1x1 convolutions. A bottleneck reduces the resolution in its 3x3
    convolution, as in torchvision, not in its first 1x1 convolution, as in the paper. Layers have
    the names of torchvision, with `_` instead of `.`, so `load_torchvision_weights` can load its
    weights.

    Args:
        depth: Number of layers with weights, including the classifier: 18, 34, 50 or 101.
        input_shape: `(height, width, 3)` of the images. The weights do not depend on it.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default the policy
            that is in force. Weights, statistics and features are float32 with any policy.
        normalization: How the images are normalized, if the weights to be loaded require it, such
            as `IMAGENET`. By default the encoder learns any normalization.

    Returns:
        A `keras.Model` from float images `(batch, height, width, 3)` to features `(batch, 512)` at
        depths 18 and 34, `(batch, 2048)` at 50 and 101.

    Raises:
        ValueError: If `depth` is none of these.

    Example:

    >>> encoder = daso_tf.encoders.resnet(depth=18, input_shape=(64, 64, 3))
    >>> encoder.output_shape
    (None, 512)

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1. The stride in
        the 3x3 convolution: Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1.
    """
    if depth not in _BLOCKS:
        raise ValueError(
            f"depth of a residual network must be one of {', '.join(map(str, _BLOCKS))}, "
            f"not {depth}."
        )
    block_of = _bottleneck if depth in _BOTTLENECK_DEPTHS else _basic_block
    with dtype_policy(dtype):
        images = keras.Input(input_shape, name="images")
        x = images
        if normalization is not None:
            x = NormalizedInput(*normalization, name="normalized_input")(x)
        x = _convolved_norm(x, 64, 7, 2, "conv1", "bn1", activated=True)
        # "same" would pad unevenly. Padding with zeros is safe: after ReLU no value is below zero.
        x = keras.layers.MaxPooling2D(3, strides=2)(keras.layers.ZeroPadding2D(1)(x))
        for stage, blocks in enumerate(_BLOCKS[depth], start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = block_of(x, 64 * 2 ** (stage - 1), stride, f"layer{stage}_{block}")
        features = keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
        return keras.Model(images, features, name=f"resnet_{depth}")


def _basic_block(x: tf.Tensor, channels: int, stride: int, name: str) -> tf.Tensor:
    residual = _convolved_norm(x, channels, 3, stride, f"{name}_conv1", f"{name}_bn1", True)
    residual = _convolved_norm(residual, channels, 3, 1, f"{name}_conv2", f"{name}_bn2")
    return _added(x, residual, stride, name)


def _bottleneck(x: tf.Tensor, channels: int, stride: int, name: str) -> tf.Tensor:
    residual = _convolved_norm(x, channels, 1, 1, f"{name}_conv1", f"{name}_bn1", True)
    residual = _convolved_norm(residual, channels, 3, stride, f"{name}_conv2", f"{name}_bn2", True)
    residual = _convolved_norm(residual, 4 * channels, 1, 1, f"{name}_conv3", f"{name}_bn3")
    return _added(x, residual, stride, name)


def _added(x: tf.Tensor, residual: tf.Tensor, stride: int, name: str) -> tf.Tensor:
    """Adds the residual to the input of its block, reshaped by a 1x1 convolution if needed."""
    if x.shape != residual.shape:
        names = f"{name}_downsample_0", f"{name}_downsample_1"
        x = _convolved_norm(x, residual.shape[-1], 1, stride, *names)
    return keras.layers.ReLU(name=name)(keras.layers.Add()([x, residual]))


def _convolved_norm(
    x: tf.Tensor,
    channels: int,
    size: int,
    stride: int,
    convolution_name: str,
    norm: str,
    activated: bool = False,
) -> tf.Tensor:
    """Applies a convolution, padded by half its size on every side, BatchNorm, and maybe ReLU."""
    if size > 1 and stride > 1:  # "same" would pad unevenly
        x = keras.layers.ZeroPadding2D(size // 2)(x)
    x = keras.layers.Conv2D(
        channels,
        size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=scaled_normal(2.0, "fan_out"),  # He et al., 2015
        name=convolution_name,
    )(x)
    return BatchNormalization(negative_slope=0.0 if activated else None, name=norm)(x)
