"""Every random draw on the host: who is in which split, and which images are in which batch.

All draws depend only on the seed, a named stream and, for batches, the number of the step. They
are the same on every machine and with every version of NumPy and TensorFlow.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class Stream(enum.IntEnum):
    """What an order of `random_order` is for. Each purpose gets an order of its own."""

    SPLIT = 0
    DIGITS_TEST = 1


class BatchStream(enum.IntEnum):
    """Which images of a batch are drawn. Each stream has draws of its own."""

    LABELED = 0
    UNLABELED = 1
    CLASS_BALANCED = 2


def random_order(size: int, stream: Stream, *key: int) -> np.ndarray:
    """Returns the numbers 0..size-1 in a random order.

    `np.random.Generator.permutation` may change between NumPy releases (NEP 19). The raw output of
    a bit generator may not, so the order sorts one raw draw per position.

    Args:
        size: How many numbers.
        stream: The purpose of the order.
        *key: Integers >= 0 that tell orders of the same stream apart, such as seed and class.

    Returns:
        int64 array of shape (size,).
    """
    draws = np.random.PCG64([int(stream), *key]).random_raw(size)
    return np.argsort(draws, kind="stable")


def endless_passes(
    count: int, seed: int, stream: BatchStream, start: int | tf.Tensor
) -> tf.data.Dataset:
    """Makes endless passes over the positions 0..count-1, each in a random order of its own.

    Args:
        count: How many positions, at least 1.
        seed: Integer >= 0.
        stream: Which images of a batch the positions are for.
        start: How many positions to skip, in order to resume there; an int64 scalar.

    Returns:
        A dataset of int32 scalars.
    """
    import tensorflow as tf

    first_pass, skipped = start // count, start % count

    def order_of_pass(number: tf.Tensor) -> tf.data.Dataset:
        pass_seed = _seed(seed, stream, number)
        order = tf.random.experimental.stateless_shuffle(tf.range(count), pass_seed, alg="philox")
        # Not `skip` of the dataset, which would make each position that it skips.
        order = order[tf.where(tf.equal(number, first_pass), skipped, 0) :]
        return tf.data.Dataset.from_tensor_slices(order)

    return tf.data.Dataset.range(first_pass, tf.int64.max).flat_map(order_of_pass)


def class_balanced_draws(
    labels: np.ndarray, per_step: int, seed: int, first_step: int | tf.Tensor
) -> tf.data.Dataset:
    """Draws positions endlessly: a class, all with the same probability, then one of its images.

    Args:
        labels: Integer array of shape (N,), classes 0..K-1, every class at least once.
        per_step: Positions per step.
        seed: Integer >= 0.
        first_step: Number of the step that the first positions are for; an int64 scalar.

    Returns:
        A dataset of int64 scalars.
    """
    import tensorflow as tf

    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts

    def draw(step: tf.Tensor) -> tf.data.Dataset:
        step_seed = _seed(seed, BatchStream.CLASS_BALANCED, step)
        bits = tf.random.stateless_uniform(
            [2, per_step], step_seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        of_class, within = tf.unstack(tf.cast(bits, tf.float64) * 2.0**-32)
        classes = tf.cast(of_class * len(counts), tf.int64)
        within = tf.cast(within * tf.gather(counts.astype(np.float64), classes), tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            tf.gather(by_class, tf.gather(starts, classes) + within)
        )

    return tf.data.Dataset.range(first_step, tf.int64.max).flat_map(draw)


def _seed(seed: int, stream: BatchStream, number: tf.Tensor) -> tf.Tensor:
    """Returns the seed of one pass or step."""
    import tensorflow as tf

    stream_seed = tf.constant((seed, int(stream)), tf.int64)
    return tf.random.experimental.stateless_fold_in(stream_seed, number)
