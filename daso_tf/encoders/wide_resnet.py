"""Wide residual networks, the encoder of the CIFAR and STL-10 experiments in the DASO paper."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.encoders.batch_normalization import BatchNormalization
from daso_tf.encoders.precision import dtype_policy
from daso_tf.platform.keras_versions import scaled_normal


def wide_resnet(
    depth: int = 28,
    width: int = 2,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    dtype: str | None = None,
    raw: bool = False,
) -> keras.Model:
    """Builds a wide residual network (WRN), which maps normalized images to features.

    A convolution with 16 channels is followed by three groups of `(depth - 4) / 6` pre-activation
    residual blocks, with 16, 32 and 64 times `width` channels. In the first block, the shortcut
    branches off after the first BatchNorm and activation. In all other blocks it branches off
    before them.

    Args:
        depth: Number of convolutional layers, 6n + 4: 10, 16, 22, 28, ...
        width: Factor for the number of channels, at least 1.
        input_shape: `(height, width, 3)` of the images. The weights do not depend on it.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default the policy
            that is in force. Weights, statistics and features are float32 with any policy.
        raw: Whether both branches of the first blocks of the second and third group read the raw
            input, without BatchNorm and activation, as in the authors' code of SimPro, ACR and
            ADELLO.

    Returns:
        A `keras.Model` from float images `(batch, height, width, 3)` to features
        `(batch, 64 * width)`.

    Raises:
        ValueError: If `depth` is not 6n + 4 or `width` is below 1.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(depth=10, width=1)
    >>> encoder.output_shape
    (None, 64)

    Reference:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, in the variant with LeakyReLU
        (slope 0.1) of Oliver et al., NeurIPS 2018, which the DASO paper uses (section 4.1).
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(
            f"depth of a wide residual network must be 6n + 4: 10, 16, 22, 28, ..., not {depth}."
        )
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}.")
    with dtype_policy(dtype):
        images = keras.Input(input_shape, name="images")
        parts = [_convolution(16, name="init_conv")(images)]
        for group, channels in enumerate((16 * width, 32 * width, 64 * width), start=1):
            for block in range((depth - 4) // 6):
                stride = 2 if group > 1 and block == 0 else 1
                name = f"group{group}_block{block}"
                is_raw = raw and stride == 2
                parts = _block(parts, channels, stride, name, group == 1 and block == 0, is_raw)
        x, _ = _activated_norm(parts, "final_norm")
        features = keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
        return keras.Model(images, features, name=f"wrn_{depth}_{width}{'_raw' * raw}")


def _block(
    parts: list[tf.Tensor],
    channels: int,
    stride: int,
    name: str,
    activate_shortcut: bool,
    raw: bool,
) -> list[tf.Tensor]:
    """Returns the shortcut and the residual, which the next layer adds."""
    if raw:
        x = activated = keras.layers.Add(name=f"{name}_sum")(parts)
    else:
        activated, x = _activated_norm(parts, f"{name}_norm1")
    shortcut = activated if activate_shortcut else x
    if stride != 1 or x.shape[-1] != channels:
        shortcut = _convolution(channels, 1, stride, name=f"{name}_shortcut")(shortcut)
    residual = _padded(activated, stride)
    residual = _convolution(channels, 3, stride, name=f"{name}_conv1")(residual)
    residual, _ = _activated_norm([residual], f"{name}_norm2")
    residual = _convolution(channels, name=f"{name}_conv2")(residual)
    return [shortcut, residual]


def _padded(x: tf.Tensor, stride: int) -> tf.Tensor:
    """Pads by 1 on every side for stride 2, where "same" of TensorFlow would pad unevenly."""
    return x if stride == 1 else keras.layers.ZeroPadding2D(1)(x)


def _convolution(
    channels: int, size: int = 3, stride: int = 1, name: str | None = None
) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        channels,
        size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=scaled_normal(2.0, "fan_out"),  # He et al., 2015
        name=name,
    )


def _activated_norm(parts: list[tf.Tensor], name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Normalizes and activates the sum of the parts, and returns the sum too."""
    norm = BatchNormalization(negative_slope=0.1, name=name)
    return (norm(parts[0]), parts[0]) if len(parts) == 1 else tuple(norm(parts))
