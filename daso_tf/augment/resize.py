"""From views to what the encoder sees: another resolution, then normalised channels."""

import tensorflow as tf


def resize(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes uint8 images as Pillow's antialiased bilinear filter does, within 1 grey level."""
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    shape = tf.shape(images)
    height, width = (
        static if static is not None else shape[axis + 1]
        for axis, static in enumerate(images.shape[1:3])
    )
    pixels = tf.cast(images, tf.float32)
    pixels = _to_grey_levels(tf.einsum("nhwc,vw->nhvc", pixels, _filter(width, size[1])))
    pixels = _to_grey_levels(tf.einsum("nhwc,vh->nvwc", pixels, _filter(height, size[0])))
    return tf.cast(pixels, tf.uint8)


def _to_grey_levels(pixels):
    return tf.floor(pixels + 0.5)


def _filter(source, target):
    """Returns the weights of each source position in each target position: [target, source]."""
    scale = tf.cast(source, tf.float32) / target
    reach = tf.maximum(scale, 1.0)
    centre = (tf.range(target, dtype=tf.float32) + 0.5) * scale
    distance = tf.abs(tf.range(source, dtype=tf.float32) + 0.5 - centre[:, tf.newaxis])
    weights = tf.maximum(1.0 - distance / reach, 0.0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def normalise(images: tf.Tensor, mean, std) -> tf.Tensor:
    """Returns (images / 255 - mean) / std, channel by channel, float32."""
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    return (tf.cast(images, tf.float32) / 255.0 - mean) / std
