"""The exponential moving average of a network, which is what gets evaluated."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf


def decay_at(step: tf.Tensor, decay: float) -> tf.Tensor:
    """Returns the decay in force at a step: `min(1 - 1 / (step + 1), decay)`.

    At step 0 it is 0, so that the average starts as a copy of the network; then it rises to
    `decay`, so that early weights are soon forgotten.

    Args:
        step: int scalar, from 0.
        decay: The final decay, in [0, 1).

    Returns:
        float32 scalar.

    Example:

    >>> [round(float(decay_at(tf.constant(t), 0.999)), 3) for t in (0, 1, 9, 100000)]
    [0.0, 0.5, 0.9, 0.999]
    """
    return tf.minimum(1.0 - 1.0 / (tf.cast(step, tf.float32) + 1.0), decay)


def update(averages: Iterable, variables: Iterable, decay: tf.Tensor) -> None:
    """Moves every average towards its variable, in place.

    Args:
        averages: Variables of the averaged network.
        variables: Variables of the trained network, in the same order. Variables that are not
            floating point (the seeds of a dropout layer, say) have no average and are passed over.
        decay: Weight of the old average, in [0, 1].
    """
    for average, variable in zip(averages, variables, strict=True):
        if tf.as_dtype(variable.dtype).is_floating:
            weight = tf.cast(decay, variable.dtype)
            average.assign(weight * average + (1.0 - weight) * variable)
