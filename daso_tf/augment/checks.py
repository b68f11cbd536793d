"""What every function here asks of its input, checked before any work starts."""

import numpy as np
import tensorflow as tf


def checked_images(images) -> tf.Tensor:
    """Returns the images as a tensor, or says why they are none.

    Args:
        images: uint8 `[N, H, W, 3]`, values 0 to 255; H and W may be unknown.

    Returns:
        The same images as a tensor.

    Raises:
        TypeError: The images are not uint8.
        ValueError: They do not have the shape `[N, H, W, 3]`.
    """
    images = tf.convert_to_tensor(images)
    if images.dtype != tf.uint8:
        raise TypeError(
            f"images must be uint8 with values 0 to 255, got {images.dtype.name}; "
            "augment before scaling or normalising"
        )
    if images.shape.rank != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have the shape [N, H, W, 3], got {images.shape}")
    return images


def checked_sized_images(images) -> tf.Tensor:
    """Returns the images as a tensor, if their height and width are known too.

    Args:
        images: uint8 `[N, H, W, 3]`, values 0 to 255; H and W known.

    Returns:
        The same images as a tensor.

    Raises:
        TypeError: The images are not uint8.
        ValueError: They do not have the shape `[N, H, W, 3]`, or H or W is unknown.
    """
    images = checked_images(images)
    if None in images.shape[1:3]:
        raise ValueError(
            f"images must have a known height and width, got {images.shape}; "
            "call images.set_shape([None, height, width, 3]) first"
        )
    return images


def checked_magnitude(magnitude, images: tf.Tensor) -> tf.Tensor:
    """Returns one magnitude an image, float64.

    A value that is known is checked at once. One that a graph computes is checked when it runs,
    but not under XLA, which cannot stop a program.

    Args:
        magnitude: Numbers `[N]`.
        images: The images `[N, H, W, 3]` that they are for.

    Returns:
        float64 `[N]`.

    Raises:
        ValueError: The shape is another, or a magnitude is not finite.
    """
    if not tf.is_tensor(magnitude):
        magnitude = np.asarray(magnitude, np.float64)
    magnitude = tf.cast(magnitude, tf.float64)
    if not magnitude.shape.is_compatible_with(images.shape[:1]):
        raise ValueError(
            f"magnitude must have one number an image, shape {images.shape[:1]}, "
            f"got the shape {magnitude.shape}"
        )
    known = tf.get_static_value(magnitude)
    if known is None:
        return tf.debugging.check_numerics(magnitude, "magnitude must be finite")
    if not np.isfinite(known).all():
        raise ValueError(f"magnitude must be finite, got {known.tolist()}")
    return magnitude


def checked_seed(seed) -> tf.Tensor:
    """Returns the seed as a tensor of two integers.

    Args:
        seed: Two integers, as TensorFlow's stateless random functions take.

    Returns:
        int32 or int64 `[2]`.

    Raises:
        ValueError: It is anything else.
    """
    seed = tf.convert_to_tensor(seed)
    if seed.dtype not in (tf.int32, tf.int64) or seed.shape != [2]:
        raise ValueError(
            f"seed must be two integers, int32 or int64 of shape [2], "
            f"got {seed.dtype.name} of shape {seed.shape}"
        )
    return seed
