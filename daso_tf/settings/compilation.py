"""How much of a step is XLA to compile?"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

# On a CPU oneDNN's convolutions, which TensorFlow calls, are faster than those that XLA calls, and
# XLA is faster at all that lies between them, most of it BatchNorm. Compiling that takes some
# seconds, which runs of more floating-point operations than this save again; in shorter ones it
# would only delay the first step. benchmarks/RESULTS.md has the measurements.
PAYS_FROM = 5e12


def best(encoder: keras.Model, images: int, whole: bool = True) -> bool | str:
    """Chooses what makes a run shortest, compilation included.

    On a GPU that is the whole step; on a CPU BatchNorm with its activation, where the convolutions
    of the run are many.

    Args:
        encoder: A `keras.Model` with images of known size.
        images: How many go through the encoder in training, forward and back.
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
        encoder: A `keras.Model` with images of known size, every layer of which is called once.

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
