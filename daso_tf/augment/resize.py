"""Prepares views for an encoder: changes their resolution and normalizes their channels."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from daso_tf.augment.ops import checked_images
from daso_tf.platform.checks import checked_channel_statistics


def resize(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes images like Pillow's `Image.resize(..., BILINEAR)`: every value within 1 of Pillow's.

    The filter is a triangle, widened by the factor of a reduction (antialiasing). Each axis is one
    product with a small matrix, the width first, and values are rounded in between, as in Pillow.
    Images that already have the size are returned unchanged.

    Args:
        images: uint8 `[N, H, W, 3]`, values 0 to 255. Under XLA, H and W must be known.
        size: The new height and width in pixels, each at least 1.

    Returns:
        uint8 `[N, size[0], size[1], 3]`.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If their shape is not `[N, H, W, 3]`, or the size is not two whole numbers of
            at least 1.

    Example:

    >>> images = tf.zeros([8, 96, 96, 3], tf.uint8)
    >>> daso_tf.augment.resize(images, (32, 32)).shape
    TensorShape([8, 32, 32, 3])

    Reference:
        `Image.resize` of Pillow.
    """
    images = checked_images(images)
    if len(size) != 2 or any(int(length) != length or length < 1 for length in size):
        raise ValueError(f"size must be a height and a width of at least 1 pixel, not {size!r}.")
    if images.shape[1:3] == tuple(size):
        return images
    shape = tf.shape(images)
    height, width = (images.shape[axis] or shape[axis] for axis in (1, 2))
    pixels = tf.cast(images, tf.float32)
    pixels = tf.floor(tf.einsum("nhwc,vw->nhvc", pixels, _weights(width, size[1])) + 0.5)
    pixels = tf.floor(tf.einsum("nhwc,vh->nvwc", pixels, _weights(height, size[0])) + 0.5)
    return tf.cast(pixels, tf.uint8)


def normalize(images: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """Scales values to 0..1, then subtracts the mean and divides by the standard deviation.

    Args:
        images: uint8 `[N, H, W, 3]`, values 0 to 255.
        mean: Mean of each channel over the training images, in [0, 1].
        std: Standard deviation of each channel on the same scale, in (0, 1].

    Returns:
        float32 `[N, H, W, 3]`: `(images / 255 - mean) / std`.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If their shape is not `[N, H, W, 3]`, or `mean` or `std` is outside its range.

    Example:

    >>> images = tf.fill([1, 2, 2, 3], tf.constant(255, tf.uint8))
    >>> mean, std = (0.5, 0.5, 0.5), (0.5, 0.25, 0.125)
    >>> daso_tf.augment.normalize(images, mean, std)[0, 0, 0].numpy().tolist()
    [1.0, 2.0, 4.0]
    """
    images = checked_images(images)
    mean, std = checked_channel_statistics(mean, std)
    scaled = tf.cast(images, tf.float32) / 255.0
    return (scaled - tf.constant(mean, tf.float32)) / tf.constant(std, tf.float32)


def _weights(source: int | tf.Tensor, target: int) -> tf.Tensor:
    """Returns the weight of each source pixel in each target pixel: float32 [target, source]."""
    scale = tf.cast(source, tf.float64) / target
    center = (tf.range(target, dtype=tf.float64)[:, tf.newaxis] + 0.5) * scale
    distance = tf.abs(tf.cast(tf.range(source), tf.float64) + 0.5 - center)
    weights = tf.maximum(1.0 - distance / tf.maximum(scale, 1.0), 0.0)
    return tf.cast(weights / tf.reduce_sum(weights, axis=1, keepdims=True), tf.float32)
