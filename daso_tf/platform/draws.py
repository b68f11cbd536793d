"""Random numbers for each image by itself."""

import tensorflow as tf

from daso_tf.augment.checks import checked_seed
from daso_tf.platform import replicas

# Streams of random numbers, one a layer: they keep layers apart that are given one seed.
WEAK, RAND_AUGMENT, RANDOM_RESIZED_CROP, BALANCED_LABELED, BALANCED_UNLABELED = 1, 2, 3, 4, 5


def uniform(seed, stream: int, count: int | tf.Tensor, draws: int) -> tf.Tensor:
    """Draws numbers from [0, 1), a row an image, the same row for every count.

    Made of integer bits, which TensorFlow and XLA draw alike on every device; their floats differ.
    A replica of a distributed step gets the rows that its images have in the global batch.

    Args:
        seed: Two integers, `[2]`.
        stream: Which of the streams above.
        count: How many images, of this replica.
        draws: How many numbers an image.

    Returns:
        float32 `[count, draws]`, multiples of 2^-24.

    Raises:
        ValueError: The seed is not two integers.

    Example:

    >>> bool(tf.reduce_all(uniform([0, 1], WEAK, 2, 3) == uniform([0, 1], WEAK, 9, 3)[:2]))
    True
    """
    seed = tf.random.experimental.stateless_fold_in(checked_seed(seed), stream, alg="philox")
    bits = tf.random.stateless_uniform(
        [replicas.count() * count, draws],
        seed,
        minval=None,
        maxval=None,
        dtype=tf.uint32,
        alg="philox",
    )
    bits = replicas.own_rows(bits)
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24


def below(limit: int | tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Turns draws from [0, 1) into whole numbers from 0 to below the limit.

    Args:
        limit: A whole number, 1 or more, or one a draw.
        draw: Multiples of 2^-24.

    Returns:
        int32, as many as there are draws.

    Example:

    >>> below(3, tf.constant([0.0, 0.5, 0.75])).numpy().tolist()
    [0, 1, 2]
    """
    return tf.cast(draw * tf.cast(limit, draw.dtype), tf.int32)
