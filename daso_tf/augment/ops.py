"""The 14 operations of RandAugment on batches, each exact to what Pillow gives.

An operation is one of three things, and each kind has one function that carries it out:

* a table, that gives each of a channel's 256 values a new one (`_look_up`),
* an affine map of the pixel grid, sampled at the nearest pixel (`_sample`),
* a blend of the image with a plainer version of itself (`_blend`).

Every magnitude is one image's own. Everything is integer arithmetic, or floating point in which
each result is rounded where Pillow rounds it, so that graph, XLA, CPU and GPU all agree.
"""

import functools
import math
import types
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# The products ix * (255 / range) of Pillow's autocontrast, each rounded to a double as Python does.
# Computed here because a compiler would fuse the product with the sum that follows it, which
# rounds once instead of twice and moves some values by one. Range 0 keeps every value.
_STRETCHED = np.arange(256.0) * np.array([1.0, *(255.0 / np.arange(1, 256))])[:, np.newaxis]


def _look_up(images: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Maps values by uint8 tables [N, C, 256]; C is 3, or 1 for all three channels."""
    channels = table.shape[1]
    pixels = tf.reshape(tf.cast(images, tf.int32), [tf.shape(images)[0], -1, 3])
    index = pixels + 256 * tf.range(3) if channels == 3 else pixels
    values = tf.gather(tf.reshape(table, [-1, channels * 256]), index, batch_dims=1)
    return tf.reshape(values, tf.shape(images))


def _sample(images: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Samples at x' = a x + b y + c, y' = d x + e y + f; matrix is int32 [N, 6] in 1/65536 pixel."""
    height, width = images.shape[1], images.shape[2]
    a, b, c, d, e, f = (m[:, tf.newaxis, tf.newaxis] for m in tf.unstack(matrix, axis=1))
    y, x = tf.range(height)[:, tf.newaxis], tf.range(width)
    column = tf.bitwise.right_shift(a * x + b * y + c, 16)
    row = tf.bitwise.right_shift(d * x + e * y + f, 16)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    first = tf.range(tf.shape(images)[0])[:, tf.newaxis, tf.newaxis] * (height * width)
    pixels = tf.gather(
        tf.reshape(images, [-1, 3]), tf.where(inside, first + row * width + column, 0)
    )
    return tf.where(inside[..., tf.newaxis], pixels, tf.zeros([], tf.uint8))


def _blend(plain: tf.Tensor, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns plain + factor * (images - plain) in C's float arithmetic, cut to 0..255."""
    plain = tf.cast(plain, tf.float32)
    factor = tf.reshape(tf.cast(factor, tf.float32), [-1, 1, 1, 1])
    # Past 256 either way the sum is cut to 0 or 255 in any case. The clip between product and sum
    # keeps compilers from fusing them into one instruction, which would round once, not twice.
    change = tf.clip_by_value(factor * (tf.cast(images, tf.float32) - plain), -256.0, 256.0)
    return tf.cast(tf.clip_by_value(plain + change, 0.0, 255.0), tf.uint8)


def _grey(images: tf.Tensor) -> tf.Tensor:
    """Returns Pillow's luma int32 [N, H, W]: ITU-R 601-2 weights in 1/65536."""
    red, green, blue = tf.unstack(tf.cast(images, tf.int32), axis=-1)
    return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 0x8000, 16)


def _values(table_of: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Operation:
    """Makes an operation of a function of the 256 values, int32 [256], and the magnitude [N, 1]."""

    @functools.wraps(table_of)
    def operation(images, magnitude):
        table = table_of(tf.range(256), magnitude[:, tf.newaxis])
        return _look_up(images, tf.cast(table, tf.uint8)[:, tf.newaxis])

    return operation


@_values
def _posterize(values, bits):
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(values, mask)


@_values
def _solarize(values, threshold):
    return tf.where(tf.cast(values, threshold.dtype) < threshold, values, 255 - values)


def _constant_blend(images, plain, factor):
    """Blends with one grey level int32 [N] an image: a function of the value alone, so a table."""
    values = tf.range(256)[:, tf.newaxis]
    table = _blend(tf.reshape(plain, [-1, 1, 1, 1]), values, factor)
    return _look_up(images, table[..., 0])


def _brightness(images, factor):
    return _constant_blend(images, tf.zeros_like(factor, tf.int32), factor)


def _contrast(images, factor):
    height, width = images.shape[1], images.shape[2]
    total = tf.reduce_sum(tf.cast(_grey(images), tf.int64), axis=[1, 2])
    mean = (2 * total + height * width) // (2 * height * width)  # rounded half up
    return _constant_blend(images, tf.cast(mean, tf.int32), factor)


def _color(images, factor):
    return _blend(_grey(images)[..., tf.newaxis], images, factor)


def _sharpness(images, factor):
    pixels = tf.cast(images, tf.int32)
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * pixels[:, 1:-1, 1:-1]
    smooth = (2 * total + 13) // 26  # total / 13, rounded
    inner = _blend(smooth, images[:, 1:-1, 1:-1], factor)
    middle = tf.concat([images[:, 1:-1, :1], inner, images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], middle, images[:, -1:]], axis=1)


def _autocontrast(images, magnitude):
    del magnitude
    low = tf.cast(tf.reduce_min(images, axis=[1, 2]), tf.int32)
    high = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.int32)
    stretched = tf.gather(tf.constant(_STRETCHED), high - low)
    shift = tf.gather(stretched, tf.where(low < high, low, 0), batch_dims=2)
    table = tf.clip_by_value(stretched - shift[..., tf.newaxis], 0.0, 255.0)
    return _look_up(images, tf.cast(table, tf.uint8))


def _equalize(images, magnitude):
    del magnitude
    count = tf.shape(images)[0]
    pixels = tf.reshape(tf.cast(images, tf.int32), [count, -1, 3])
    bins = pixels + 256 * (3 * tf.range(count)[:, tf.newaxis, tf.newaxis] + tf.range(3))
    ones = tf.ones_like(bins)
    histogram = tf.math.unsorted_segment_sum(ones, bins, count * 768)
    histogram = tf.reshape(histogram, [count, 3, 256])
    below = tf.cumsum(histogram, axis=-1, exclusive=True)
    # The pixels of the brightest value present are not counted in the step.
    step = tf.reduce_max(tf.where(histogram > 0, below, 0), axis=-1, keepdims=True) // 255
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, table, tf.range(256))
    return _look_up(images, tf.cast(table, tf.uint8))


def _fixed(*coefficients: tf.Tensor) -> tf.Tensor:
    """Rounds the six coefficients, float64 [N], to the 1/65536 in which Pillow steps."""
    a, b, c, d, e, f = coefficients
    matrix = tf.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], axis=1)
    return tf.cast(tf.floor(matrix * 65536.0 + 0.5), tf.int32)


def _rotate(images, degrees):
    height, width = images.shape[1], images.shape[2]
    degrees = tf.cast(degrees, tf.float64)
    radians = -tf.math.floormod(degrees, 360.0) * (math.pi / 180.0)

    def rounded(value):  # to 15 decimals, so that a right angle is one
        return tf.round(value * 1e15) / 1e15

    cos, sin = rounded(tf.cos(radians)), rounded(tf.sin(radians))
    x, y = width / 2, height / 2
    return _sample(
        images, _fixed(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)
    )


def _shear_x(images, shear):
    shear = tf.cast(shear, tf.float64)
    zero, one = tf.zeros_like(shear), tf.ones_like(shear)
    return _sample(images, _fixed(one, shear, zero, zero, one, zero))


def _shear_y(images, shear):
    shear = tf.cast(shear, tf.float64)
    zero, one = tf.zeros_like(shear), tf.ones_like(shear)
    return _sample(images, _fixed(one, zero, zero, shear, one, zero))


def _translate_x(images, pixels):
    pixels = tf.cast(pixels, tf.float64)
    pixels = tf.floor(tf.clip_by_value(pixels, -images.shape[2], images.shape[2]) + 0.5)
    zero, one = tf.zeros_like(pixels), tf.ones_like(pixels)
    return _sample(images, _fixed(one, zero, pixels, zero, one, zero))


def _translate_y(images, pixels):
    pixels = tf.cast(pixels, tf.float64)
    pixels = tf.floor(tf.clip_by_value(pixels, -images.shape[1], images.shape[1]) + 0.5)
    zero, one = tf.zeros_like(pixels), tf.ones_like(pixels)
    return _sample(images, _fixed(one, zero, zero, zero, one, pixels))


def _identity(images, magnitude):
    del magnitude
    return tf.identity(images)


OPS: Mapping[str, Operation] = types.MappingProxyType(
    {
        "autocontrast": _autocontrast,
        "brightness": _brightness,
        "color": _color,
        "contrast": _contrast,
        "equalize": _equalize,
        "identity": _identity,
        "posterize": _posterize,
        "rotate": _rotate,
        "sharpness": _sharpness,
        "shear_x": _shear_x,
        "shear_y": _shear_y,
        "solarize": _solarize,
        "translate_x": _translate_x,
        "translate_y": _translate_y,
    }
)
