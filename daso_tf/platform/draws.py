"""Random numbers that are the same on every device, compiled or not.

TensorFlow and XLA draw the same random bits everywhere, but not the same random floats. The
functions here therefore draw bits with the Philox generator and compute numbers from them.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import tensorflow as tf

from daso_tf.platform import replicas

# Streams of random numbers, one per user. Users that receive the same seed stay independent.
WEAK, RAND_AUGMENT, RANDOM_RESIZED_CROP, BALANCED_LABELED, BALANCED_UNLABELED = 1, 2, 3, 4, 5
BALANCED_CHOICE, STORED_VIEW, DROPOUT = 6, 7, 8


class _StepSeeds:
    """The seeds of one step: another one for each use of randomness within the network."""

    def __init__(self, seed: tf.Tensor):
        self.seed = seed
        self.used = 0


_OF_STEP: contextvars.ContextVar[_StepSeeds | None] = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def of_step(seed: tf.Tensor) -> Iterator[None]:
    """Lets layers of a network draw from the seed of a step, with `next_seed`.

    Args:
        seed: Two integers, `[2]`, another pair in every step.
    """
    token = _OF_STEP.set(_StepSeeds(seed))
    try:
        yield
    finally:
        _OF_STEP.reset(token)


def next_seed() -> tf.Tensor:
    """Returns a seed of the present step, another one at each call; outside of steps a new one.

    Example:

    >>> with of_step(tf.constant([0, 1])):
    ...     bool(tf.reduce_all(next_seed() == next_seed()))
    False
    """
    seeds = _OF_STEP.get()
    if seeds is None:
        return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    seeds.used += 1
    return tf.random.experimental.stateless_fold_in(seeds.seed, seeds.used, alg="philox")


def uniform(
    seed: tf.Tensor | Sequence[int], stream: int, count: int | tf.Tensor, draws: int
) -> tf.Tensor:
    """Draws numbers from [0, 1), one row per image.

    The row of an image does not depend on the number of images. A replica of a distributed step
    receives the rows that its images have in the global batch.

    Args:
        seed: Two integers, `[2]`.
        stream: One of the streams of this module.
        count: Number of images on this replica.
        draws: Number of draws per image.

    Returns:
        float32 `[count, draws]`, multiples of 2^-24.

    Raises:
        ValueError: If the seed is not two integers.

    Example:

    >>> bool(tf.reduce_all(uniform([0, 1], WEAK, 2, 3) == uniform([0, 1], WEAK, 9, 3)[:2]))
    True
    """
    seed = tf.random.experimental.stateless_fold_in(checked_seed(seed), stream, alg="philox")
    bits = replicas.own_rows(_random_bits(seed, [replicas.count() * count, draws]))
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24


def below(limit: int | tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Turns draws from [0, 1) into whole numbers from 0 to `limit - 1`.

    Args:
        limit: A whole number of at least 1, or one such number per draw.
        draw: Multiples of 2^-24.

    Returns:
        int32, with the shape of `draw`.

    Example:

    >>> below(3, tf.constant([0.0, 0.5, 0.75])).numpy().tolist()
    [0, 1, 2]
    """
    return tf.cast(draw * tf.cast(limit, draw.dtype), tf.int32)


def whole_numbers(seed: tf.Tensor | Sequence[int], count: int | tf.Tensor, bits: int) -> tf.Tensor:
    """Draws whole numbers from 0 to 2^bits - 1.

    Args:
        seed: Two integers, `[2]`.
        count: Number of draws.
        bits: 1 to 31.

    Returns:
        int32 `[count]`.

    Raises:
        ValueError: If the seed is not two integers.

    Example:

    >>> whole_numbers([0, 1], count=5, bits=2).shape
    TensorShape([5])
    """
    return tf.cast(
        tf.bitwise.right_shift(_random_bits(checked_seed(seed), [count]), 32 - bits), tf.int32
    )


def checked_seed(seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Returns a seed as a tensor, if TensorFlow's stateless random functions accept it.

    Args:
        seed: Two integers, `[2]`.

    Returns:
        int32 or int64 `[2]`.

    Raises:
        ValueError: If the seed is not two integers.

    Example:

    >>> checked_seed([3, 5]).numpy().tolist()
    [3, 5]
    """
    seed = tf.convert_to_tensor(seed)
    if seed.dtype not in (tf.int32, tf.int64) or seed.shape != [2]:
        raise ValueError(
            "seed must be two integers, int32 or int64 of shape (2,), "
            f"not {seed.dtype.name} of shape {seed.shape}."
        )
    return seed


def _random_bits(seed: tf.Tensor, shape: Sequence[int | tf.Tensor]) -> tf.Tensor:
    """Draws 32 random bits per element: uint32."""
    return tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
