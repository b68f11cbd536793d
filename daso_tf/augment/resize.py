"""From a view to what an encoder takes: another resolution, then normalised channels."""

from collections.abc import Sequence

import tensorflow as tf

from daso_tf.augment.checks import checked_images


def resize(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes as Pillow's `Image.resize(..., BILINEAR)`, antialiased, within 1 grey level.

    Two products with small matrices, one an axis; the width comes first and whole grey levels are
    kept between, as in Pillow. Images that have the size already are returned as they are.

    Args:
        images: uint8 `[N, H, W, 3]`, values 0 to 255; under XLA, H and W must be known.
        size: The new height and width in pixels.

    Returns:
        uint8 `[N, size[0], size[1], 3]`.

    Raises:
        TypeError: The images are not uint8.
        ValueError: They do not have the shape `[N, H, W, 3]`, or the size is not two positive
            whole numbers.

    Example:

    >>> resize(tf.zeros([8, 96, 96, 3], tf.uint8), (32, 32)).shape
    TensorShape([8, 32, 32, 3])

    Source: Pillow's `Image.resize`: a triangle filter, widened by the reduction.
    """
    images = checked_images(images)
    if len(size) != 2 or any(int(length) != length or length < 1 for length in size):
        raise ValueError(f"size must be a height and a width of 1 pixel or more, got {size!r}")
    if images.shape[1:3] == tuple(size):
        return images
    shape = tf.shape(images)
    height, width = (images.shape[axis] or shape[axis] for axis in (1, 2))
    pixels = tf.cast(images, tf.float32)
    pixels = tf.floor(tf.einsum("nhwc,vw->nhvc", pixels, _weights(width, size[1])) + 0.5)
    pixels = tf.floor(tf.einsum("nhwc,vh->nvwc", pixels, _weights(height, size[0])) + 0.5)
    return tf.cast(pixels, tf.uint8)


def normalise(images: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """Scales values to 0..1, then each channel to the given mean and standard deviation.

    Args:
        images: uint8 `[N, H, W, 3]`, values 0 to 255.
        mean: The channels' means over the training images, each in 0..1.
        std: Their standard deviations, on the same scale.

    Returns:
        float32 `[N, H, W, 3]`: `(images / 255 - mean) / std`.

    Raises:
        TypeError: The images are not uint8.
        ValueError: They do not have the shape `[N, H, W, 3]`, there is not one mean and one
            standard deviation a channel, or a standard deviation is not positive.

    Example:

    >>> images = tf.fill([1, 2, 2, 3], tf.constant(255, tf.uint8))
    >>> normalise(images, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125))[0, 0, 0].numpy().tolist()
    [1.0, 2.0, 4.0]
    """
    images = checked_images(images)
    if len(mean) != 3 or len(std) != 3 or not all(deviation > 0 for deviation in std):
        raise ValueError(
            "mean and std must have one number a channel, std above 0, "
            f"got mean={mean!r}, std={std!r}"
        )
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    return (tf.cast(images, tf.float32) / 255.0 - mean) / std


def _weights(source: int | tf.Tensor, target: int) -> tf.Tensor:
    """Returns what each source position adds to each target position: float32 [target, source]."""
    scale = tf.cast(source, tf.float64) / target
    centre = (tf.range(target, dtype=tf.float64)[:, tf.newaxis] + 0.5) * scale
    distance = tf.abs(tf.cast(tf.range(source), tf.float64) + 0.5 - centre)
    weights = tf.maximum(1.0 - distance / tf.maximum(scale, 1.0), 0.0)
    return tf.cast(weights / tf.reduce_sum(weights, axis=1, keepdims=True), tf.float32)
