"""Residual networks, the encoder of the paper's Semi-Aves experiments."""

from __future__ import annotations

import keras

from daso_tf.encoders.batch_normalization import BatchNormalization
from daso_tf.encoders.precision import dtype_policy
from daso_tf.platform.keras_versions import scaled_normal

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_BOTTLENECK_DEPTHS = (50, 101)


def resnet(
    depth: int = 50,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    dtype: str | None = None,
) -> keras.Model:
    """Builds ResNet-depth, from normalised images to feature vectors.

    A 7x7 convolution and a max pooling, both of stride 2, then four stages of residual blocks:
    two 3x3 convolutions each at depths 18 and 34, a bottleneck 1x1, 3x3, 1x1 at 50 and 101. A
    bottleneck that reduces the resolution does so in its 3x3 convolution, as torchvision's networks
    do, and not in the first 1x1, as in the paper. Layers have torchvision's names, with `_` for
    their `.`, so that its weights can be loaded (`load_torchvision_weights`).

    Args:
        depth: Number of layers with weights, the classifier included: 18, 34, 50 or 101.
        input_shape: `(height, width, 3)` of the images; the weights do not depend on it.
        dtype: Keras dtype policy of its layers, such as `mixed_bfloat16`; by default the one that
            is in force. Weights, statistics and features are float32 in any case.

    Returns:
        A `keras.Model` from float images `(batch, height, width, 3)` to features `(batch, 512)` at
        depths 18 and 34, `(batch, 2048)` at 50 and 101.

    Raises:
        ValueError: If `depth` is none of these.

    Example:

    >>> encoder = resnet(depth=18, input_shape=(64, 64, 3))
    >>> encoder.output_shape
    (None, 512)

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1; the stride's
        place: Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1.
    """
    if depth not in _BLOCKS:
        raise ValueError(
            f"A residual network has {', '.join(map(str, _BLOCKS))} layers, not depth={depth}."
        )
    block_of = _bottleneck if depth in _BOTTLENECK_DEPTHS else _basic_block
    with dtype_policy(dtype):
        images = keras.Input(input_shape, name="images")
        x = _convolved_norm(images, 64, 7, 2, "conv1", "bn1", activated=True)
        # Padded by 1 on every side, unlike "same". Zeros can only tie: no value is below zero here.
        x = keras.layers.MaxPooling2D(3, strides=2)(keras.layers.ZeroPadding2D(1)(x))
        for stage, blocks in enumerate(_BLOCKS[depth], start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = block_of(x, 64 * 2 ** (stage - 1), stride, f"layer{stage}_{block}")
        features = keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
        return keras.Model(images, features, name=f"resnet_{depth}")


def _basic_block(x, channels: int, stride: int, name: str):
    residual = _convolved_norm(x, channels, 3, stride, f"{name}_conv1", f"{name}_bn1", True)
    residual = _convolved_norm(residual, channels, 3, 1, f"{name}_conv2", f"{name}_bn2")
    return _added(x, residual, stride, name)


def _bottleneck(x, channels: int, stride: int, name: str):
    residual = _convolved_norm(x, channels, 1, 1, f"{name}_conv1", f"{name}_bn1", True)
    residual = _convolved_norm(residual, channels, 3, stride, f"{name}_conv2", f"{name}_bn2", True)
    residual = _convolved_norm(residual, 4 * channels, 1, 1, f"{name}_conv3", f"{name}_bn3")
    return _added(x, residual, stride, name)


def _added(x, residual, stride: int, name: str):
    """Adds the residual to its block's input, which a 1x1 convolution shapes where needed."""
    if x.shape != residual.shape:
        names = f"{name}_downsample_0", f"{name}_downsample_1"
        x = _convolved_norm(x, residual.shape[-1], 1, stride, *names)
    return keras.layers.ReLU(name=name)(keras.layers.Add()([x, residual]))


def _convolved_norm(
    x,
    channels: int,
    size: int,
    stride: int,
    convolution_name: str,
    norm: str,
    activated: bool = False,
):
    """A convolution padded by half its size on every side, then BatchNorm, and ReLU if asked."""
    if size > 1 and stride > 1:  # "same" would pad unevenly
        x = keras.layers.ZeroPadding2D(size // 2)(x)
    x = keras.layers.Conv2D(
        channels,
        size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=scaled_normal(2.0, "fan_out"),  # He-normal over the fan-out
        name=convolution_name,
    )(x)
    return BatchNormalization(negative_slope=0.0 if activated else None, name=norm)(x)
