"""How much of a step should XLA compile?"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

# On a CPU, oneDNN's convolutions, which TensorFlow calls, are faster than XLA's, and XLA is faster
# at everything between them, most of it BatchNorm. Its compilation takes some seconds, which longer
# runs than this number of floating-point operations save again; shorter runs would only start
# later. benchmarks/RESULTS.md has the measurements.
PAYS_FROM = 5e12
# The `jit_compile` of a learner's `compile` by the value of `--jit_compile`; `auto` is `best`.
BY_FLAG: dict[str, bool | str] = {"true": True, "batch_norm": "batch_norm", "false": False}


def best(encoder: keras.Model, images: int, whole: bool = True) -> bool | str:
    """Returns the setting that makes a run shortest, compilation included.

    On a GPU this is the whole step; on a CPU, BatchNorm with its activation in long runs.

    Args:
        encoder: A `keras.Model` for images of a known size.
        images: Number of images that pass the encoder in training, forward and backward.
        whole: Whether XLA can compile this step as a whole.

    Returns:
        The `jit_compile` of a learner's `compile`: True, `"batch_norm"` or False.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> best(encoder, images=320 * 250_000)  # without a GPU
    'batch_norm'
    """
    if tf.config.list_physical_devices("GPU"):
        return True if whole else "batch_norm"
    return "batch_norm" if 3 * images * operations(encoder) > PAYS_FROM else False


def operations(encoder: keras.Model) -> int:
    """Counts the floating-point operations of an encoder's convolutions for one image, forward.

    Args:
        encoder: A `keras.Model` for images of a known size, which calls every layer once.

    Example:

    >>> round(operations(daso_tf.encoders.wide_resnet(28, 2)) / 1e9, 2)  # GFLOP
    0.43
    """
    total = 0
    for layer in encoder.layers:
        if isinstance(layer, keras.Model):
            total += operations(layer)
        elif isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += 2 * height * width * int(np.prod(layer.kernel.shape))
    return total
