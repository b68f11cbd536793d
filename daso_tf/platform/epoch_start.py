"""Notices the start of an epoch within a step, for what changes once per epoch."""

from __future__ import annotations

import tensorflow as tf


def epoch_begins(last_epoch: tf.Variable, step: tf.Tensor, epoch_steps: int) -> tf.Tensor:
    """Returns whether an epoch begins with this call, and remembers the epoch.

    A step is not enough: each microbatch is a call with the same step.

    Args:
        last_epoch: int64 scalar, the epoch of the last call, from 0. It is set to that of this one.
        step: int scalar, the number of steps done before this one.
        epoch_steps: Steps of an epoch, at least 1.

    Returns:
        bool scalar.

    Example:

    >>> epoch = tf.Variable(0, dtype="int64")
    >>> [bool(epoch_begins(epoch, step, epoch_steps=2)) for step in (0, 1, 2, 2, 3)]
    [False, False, True, False, False]
    """
    epoch, last = tf.cast(step, tf.int64) // epoch_steps, tf.convert_to_tensor(last_epoch)
    last_epoch.assign(tf.maximum(epoch, last))
    return epoch > last
