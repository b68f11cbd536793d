"""The 14 operations of RandAugment on batches, each exact to what Pillow gives.

`OPS` maps their names to functions `operation(images, magnitude)`.

Args:
    images: uint8 `[N, H, W, 3]`, RGB, values 0 to 255; H and W known.
    magnitude: Numbers `[N]`, one an image, in the operation's own unit (its docstring says which).
        Tensors of float32 are taken as they are; Pillow then gives the same for the same float32.

Returns:
    uint8 `[N, H, W, 3]`.

Raises:
    TypeError: The images are not uint8.
    ValueError: The images or the magnitudes have another shape, or a magnitude is not finite.

Example:

>>> images = np.full([2, 32, 32, 3], 200, np.uint8)
>>> OPS["solarize"](images, [128.0, 256.0])[:, 0, 0, 0].numpy().tolist()
[55, 200]

Everything is integer arithmetic, or floating point rounded where Pillow rounds it, so that graph,
XLA, CPU and GPU agree. Two limits: where a rotation's sine or cosine comes within 1e-15 of the
middle between two steps of 1/65536 (at no whole degree), single pixels may come from beside
Pillow's, and a Pillow built with fused multiply-add (Arm) may itself blend to one grey level less.

Source: Cubuk et al., "RandAugment", 2020, as DASO's section 4.1 uses it; Pillow's ImageOps,
ImageEnhance, Image.rotate and Image.transform.
"""

import functools
import math
import types
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from daso_tf.augment.checks import checked_magnitude, checked_sized_images

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# The products value * (255 / range) of Pillow's autocontrast, a row a range, each rounded to a
# double as Python does. Computed here because a compiler would fuse the product with the sum that
# follows it and round once, not twice, which moves some values by one. Range 0 changes nothing.
_STRETCHED = np.arange(256.0) * np.array([1.0, *(255.0 / np.arange(1, 256))])[:, np.newaxis]


def _operation(function: Operation) -> Operation:
    """Checks the input of an operation first."""

    @functools.wraps(function)
    def checked(images, magnitude):
        images = checked_sized_images(images)
        return function(images, checked_magnitude(magnitude, images))

    return checked


@_operation
def autocontrast(images, magnitude):
    """Stretches each channel to 0..255: `ImageOps.autocontrast`. The magnitude is not used."""
    del magnitude
    low = tf.cast(tf.reduce_min(images, axis=[1, 2]), tf.int32)
    high = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.int32)
    stretched = tf.gather(tf.constant(_STRETCHED), high - low)
    shift = tf.gather(stretched, tf.where(low < high, low, 0), batch_dims=2)
    return _look_up(images, tf.clip_by_value(stretched - shift[..., tf.newaxis], 0.0, 255.0))


@_operation
def brightness(images, factor):
    """Blends with black: `ImageEnhance.Brightness`; 0 is black, 1 the image."""
    return _blend(tf.zeros([], tf.uint8), images, factor)


@_operation
def color(images, factor):
    """Blends with grey: `ImageEnhance.Color`; 0 is grey, 1 the image."""
    return _blend(_luma(images)[..., tf.newaxis], images, factor)


@_operation
def contrast(images, factor):
    """Blends with the mean grey level: `ImageEnhance.Contrast`; 0 is that level, 1 the image."""
    pixels = images.shape[1] * images.shape[2]
    total = tf.reduce_sum(tf.cast(_luma(images), tf.int64), axis=[1, 2], keepdims=True)
    mean = (2 * total + pixels) // (2 * pixels)  # rounded half up
    return _blend(mean[..., tf.newaxis], images, factor)


@_operation
def equalize(images, magnitude):
    """Spreads each channel's values evenly: `ImageOps.equalize`. The magnitude is not used."""
    del magnitude
    count = tf.shape(images)[0]
    pixels = tf.reshape(tf.cast(images, tf.int32), [count, -1, 3])
    bins = pixels + 256 * (3 * tf.range(count)[:, tf.newaxis, tf.newaxis] + tf.range(3))
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(bins), bins, count * 3 * 256)
    histogram = tf.reshape(histogram, [count, 3, 256])
    below = tf.cumsum(histogram, axis=-1, exclusive=True)
    # The step leaves out the pixels of the brightest value that the channel has.
    step = tf.reduce_max(tf.where(histogram > 0, below, 0), axis=-1, keepdims=True) // 255
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    return _look_up(images, tf.where(step > 0, table, tf.range(256)))


@_operation
def identity(images, magnitude):
    """Returns the image. The magnitude is not used."""
    del magnitude
    return tf.identity(images)


@_operation
def posterize(images, bits):
    """Keeps the upper 1 to 8 bits of each value: `ImageOps.posterize`; fractions are cut off."""
    known = tf.get_static_value(bits)
    if known is not None and not all(1 <= b < 9 for b in known):
        raise ValueError(f"posterize keeps 1 to 8 bits, got {known.tolist()}")
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(images, _each_image(tf.cast(mask, tf.uint8)))


@_operation
def rotate(images, degrees):
    """Rotates counter-clockwise about the centre: `Image.rotate`, degrees; black outside."""
    height, width = images.shape[1], images.shape[2]
    radians = -tf.math.floormod(degrees, 360.0) * (math.pi / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    x, y = width / 2, height / 2
    return _sample(images, cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


@_operation
def sharpness(images, factor):
    """Blends with the smoothed image: `ImageEnhance.Sharpness`; 0 is smooth, 1 the image."""
    if min(images.shape[1:3]) < 3:  # all border, which stays as it is
        return tf.identity(images)
    pixels = tf.cast(images, tf.float32)
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4.0 * pixels[:, 1:-1, 1:-1]
    smooth = tf.floor(total / 13.0 + 0.5)  # at least 1/26 from a tie: rounding errors do no harm
    inner = _blend(smooth, images[:, 1:-1, 1:-1], factor)
    middle = tf.concat([images[:, 1:-1, :1], inner, images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], middle, images[:, -1:]], axis=1)


@_operation
def shear_x(images, shear):
    """Takes row y from x + shear * y: `Image.transform` with AFFINE; black outside.

    Exact while shear * height stays below 32,768, where Pillow leaves fixed point.
    """
    return _sample(images, 1.0, shear, 0.0, 0.0, 1.0, 0.0)


@_operation
def shear_y(images, shear):
    """Takes column x from y + shear * x: `Image.transform` with AFFINE; black outside.

    Exact while shear * width stays below 32,768, where Pillow leaves fixed point.
    """
    return _sample(images, 1.0, 0.0, 0.0, shear, 1.0, 0.0)


@_operation
def solarize(images, threshold):
    """Inverts values at or above the threshold: `ImageOps.solarize`; 0 inverts all, 256 none."""
    first = tf.cast(tf.math.ceil(tf.clip_by_value(threshold, 0.0, 256.0)), tf.int32)
    return tf.where(tf.cast(images, tf.int32) < _each_image(first), images, 255 - images)


@_operation
def translate_x(images, pixels):
    """Takes each pixel from x + pixels: `Image.transform` with AFFINE; black outside."""
    return _sample(images, 1.0, 0.0, _whole(pixels, images.shape[2]), 0.0, 1.0, 0.0)


@_operation
def translate_y(images, pixels):
    """Takes each pixel from y + pixels: `Image.transform` with AFFINE; black outside."""
    return _sample(images, 1.0, 0.0, 0.0, 0.0, 1.0, _whole(pixels, images.shape[1]))


OPS: Mapping[str, Operation] = types.MappingProxyType(
    {
        operation.__name__: operation
        for operation in (
            autocontrast,
            brightness,
            color,
            contrast,
            equalize,
            identity,
            posterize,
            rotate,
            sharpness,
            shear_x,
            shear_y,
            solarize,
            translate_x,
            translate_y,
        )
    }
)


def _each_image(values: tf.Tensor) -> tf.Tensor:
    """Shapes one value an image, [N], to go with the pixels, [N, 1, 1, 1]."""
    return tf.reshape(values, [-1, 1, 1, 1])


def _luma(images: tf.Tensor) -> tf.Tensor:
    """Returns Pillow's grey level int32 [N, H, W]: ITU-R 601-2 weights in 1/65536."""
    red, green, blue = tf.unstack(tf.cast(images, tf.int32), axis=-1)
    return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 0x8000, 16)


def _blend(plain: tf.Tensor, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns plain + factor * (images - plain) in C's float arithmetic, cut to 0..255."""
    plain, factor = tf.cast(plain, tf.float32), _each_image(tf.cast(factor, tf.float32))
    # Past 256 either way the sum is cut to 0 or 255 in any case. The clip between product and sum
    # keeps compilers from fusing them into one instruction, which would round once, not twice.
    change = tf.clip_by_value(factor * (tf.cast(images, tf.float32) - plain), -256.0, 256.0)
    return tf.cast(tf.clip_by_value(plain + change, 0.0, 255.0), tf.uint8)


def _look_up(images: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Gives each value the one in its image's and channel's table, [N, 3, 256]."""
    count = tf.shape(images)[0]
    table = tf.reshape(tf.cast(table, tf.uint8), [count, 3 * 256])
    pixels = tf.reshape(tf.cast(images, tf.int32), [count, -1, 3])
    values = tf.gather(table, pixels + 256 * tf.range(3), batch_dims=1)
    return tf.reshape(values, tf.shape(images))


def _whole(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Rounds a shift half up, as sampling the nearest pixel does, and keeps it near the image."""
    return tf.floor(tf.clip_by_value(pixels, -size, size) + 0.5)


def _sample(images: tf.Tensor, a, b, c, d, e, f) -> tf.Tensor:
    """Takes pixel (x, y) from (a x + b y + c, d x + e y + f): nearest, black outside.

    Coefficients are float64 [N] or the same for all. Pillow steps through the source in 1/65536
    pixel, starting from the middle of the first one.
    """
    height, width = images.shape[1], images.shape[2]

    def source(step_x, step_y, start):
        start = start + step_x * 0.5 + step_y * 0.5
        step_x, step_y, start = (
            tf.cast(tf.floor(tf.cast(value, tf.float64) * 65536.0 + 0.5), tf.int32)
            for value in (step_x, step_y, start)
        )
        step_x, step_y, start = (tf.reshape(v, [-1, 1, 1]) for v in (step_x, step_y, start))
        position = step_x * tf.range(width) + step_y * tf.range(height)[:, tf.newaxis] + start
        return tf.bitwise.right_shift(position, 16)

    column, row = source(a, b, c), source(d, e, f)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    first = tf.range(tf.shape(images)[0])[:, tf.newaxis, tf.newaxis] * (height * width)
    index = tf.where(inside, first + row * width + column, 0)
    pixels = tf.gather(tf.reshape(images, [-1, 3]), index)
    return tf.where(inside[..., tf.newaxis], pixels, tf.zeros([], tf.uint8))
