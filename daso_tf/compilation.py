"""Is it worth the time to compile the step with XLA?"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

# On two CPU cores a compiled step of a wide residual network takes some four fifths of the time of
# the other one, and compiling it takes half a minute to a minute. What is saved outweighs that in
# runs of more arithmetic than this; in shorter ones XLA would only delay the first step.
# benchmarks/RESULTS.md has the measurements.
PAYS_FROM = 5e13


def pays(encoder: keras.Model, images: int) -> bool:
    """Says whether a run is shorter with XLA, its compilation included.

    On a GPU it always is; on a CPU where the convolutions of the run are many.

    Args:
        encoder: A `keras.Model` with images of known size.
        images: How many go through the encoder in training, forward and back.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> pays(encoder, images=320 * 250_000)
    True
    """
    if tf.config.list_physical_devices("GPU"):
        return True
    return 3 * images * operations(encoder) > PAYS_FROM


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
