"""The 14 operations of RandAugment on batches of images, each bit-exact to Pillow.

`OPS` maps the name of each operation to a function `operation(images, magnitude)`.

Args:
    images: uint8 `[N, H, W, 3]`, RGB, values 0 to 255. H and W must be known.
    magnitude: Numbers `[N]`, one per image, in the unit that the operation's docstring names.
        float32 magnitudes are not rounded: Pillow returns the same for the same float32 number.

Returns:
    uint8 `[N, H, W, 3]`.

Raises:
    TypeError: If the images are not uint8.
    ValueError: If the images or the magnitudes have another shape, or a magnitude is not finite.
    tf.errors.InvalidArgumentError: If a graph computes a magnitude that is not finite. XLA, which
        cannot stop a program, does not check this.

Example:

>>> images = np.full([2, 32, 32, 3], 200, np.uint8)
>>> OPS["solarize"](images, [128.0, 256.0])[:, 0, 0, 0].numpy().tolist()
[55, 200]

All arithmetic is on integers, or on floats that are rounded where Pillow rounds them, so graphs,
XLA, CPU and GPU agree. There are two limits. First, if the sine or cosine of a rotation is within
1e-15 of the middle between two multiples of 1/65536, which no whole degree is, single pixels may
be taken from one pixel further than Pillow takes them. Second, a Pillow that was compiled with
fused multiply-add (Arm) may itself blend to a value that is one lower.

Reference:
    Cubuk et al., "RandAugment", 2020, as used in section 4.1 of DASO; `ImageOps`, `ImageEnhance`,
    `Image.rotate` and `Image.transform` of Pillow.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# The products value * (255 / range) of Pillow's autocontrast, one row per range, each rounded to a
# double. They are computed here because a compiler would fuse the product with the sum that follows
# and round once instead of twice, which changes some values by one. Range 0 changes nothing.
_STRETCHED = np.arange(256.0) * np.array([1.0, *(255.0 / np.arange(1, 256))])[:, np.newaxis]


def _operation(function: Operation) -> Operation:
    """Adds the checks of its arguments to an operation."""

    @functools.wraps(function)
    def checked(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        images = checked_images(images, sized=True)
        return function(images, _checked_magnitude(magnitude, images))

    return checked


@_operation
def autocontrast(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255: `ImageOps.autocontrast`. Ignores the magnitude."""
    del magnitude
    low = tf.cast(tf.reduce_min(images, axis=[1, 2]), tf.int32)
    high = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.int32)
    stretched = tf.gather(tf.constant(_STRETCHED), high - low)
    shift = tf.gather(stretched, tf.where(low < high, low, 0), batch_dims=2)
    return _look_up(images, tf.clip_by_value(stretched - shift[..., tf.newaxis], 0.0, 255.0))


@_operation
def brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with black: `ImageEnhance.Brightness`. 0 is black, 1 is the image."""
    return _blend(tf.zeros([], tf.uint8), images, factor)


@_operation
def color(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the gray image: `ImageEnhance.Color`. 0 is gray, 1 is the image."""
    return _blend(_luma(images)[..., tf.newaxis], images, factor)


@_operation
def contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the mean gray value: `ImageEnhance.Contrast`. 0 is the mean, 1 is the image."""
    pixels = images.shape[1] * images.shape[2]
    total = tf.reduce_sum(tf.cast(_luma(images), tf.int64), axis=[1, 2], keepdims=True)
    mean = (2 * total + pixels) // (2 * pixels)  # rounded half up
    return _blend(mean[..., tf.newaxis], images, factor)


@_operation
def equalize(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Equalizes the histogram of each channel: `ImageOps.equalize`. Ignores the magnitude."""
    del magnitude
    count = tf.shape(images)[0]
    pixels = tf.reshape(tf.cast(images, tf.int32), [count, -1, 3])
    bins = pixels + 256 * (3 * tf.range(count)[:, tf.newaxis, tf.newaxis] + tf.range(3))
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(bins), bins, count * 3 * 256)
    histogram = tf.reshape(histogram, [count, 3, 256])
    below = tf.cumsum(histogram, axis=-1, exclusive=True)
    # As in Pillow, the pixels with the brightest value of the channel do not count for the step.
    step = tf.reduce_max(tf.where(histogram > 0, below, 0), axis=-1, keepdims=True) // 255
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    return _look_up(images, tf.where(step > 0, table, tf.range(256)))


@_operation
def identity(images: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Returns the image. Ignores the magnitude."""
    del magnitude
    return tf.identity(images)


@_operation
def posterize(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Keeps the upper 1 to 8 bits of each value: `ImageOps.posterize`. Cuts off fractions."""
    known = tf.get_static_value(bits)
    if known is not None and not all(1 <= b < 9 for b in known):
        raise ValueError(f"The magnitude of posterize must be 1 to 8 bits, not {known.tolist()}.")
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(bits, tf.int32))
    return tf.bitwise.bitwise_and(images, _each_image(tf.cast(mask, tf.uint8)))


@_operation
def rotate(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Rotates counter-clockwise about the center, in degrees: `Image.rotate`. Black outside."""
    height, width = images.shape[1], images.shape[2]
    radians = -tf.math.floormod(degrees, 360.0) * (math.pi / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    x, y = width / 2, height / 2
    return _sample(images, cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


@_operation
def sharpness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the smoothed image: `ImageEnhance.Sharpness`. 0 is smooth, 1 is the image."""
    if min(images.shape[1:3]) < 3:  # only border pixels, which Pillow does not smooth
        return tf.identity(images)
    pixels = tf.cast(images, tf.float32)
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4.0 * pixels[:, 1:-1, 1:-1]
    smooth = tf.floor(total / 13.0 + 0.5)  # at least 1/26 from a tie: rounding is safe
    inner = _blend(smooth, images[:, 1:-1, 1:-1], factor)
    middle = tf.concat([images[:, 1:-1, :1], inner, images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], middle, images[:, -1:]], axis=1)


@_operation
def shear_x(images: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Takes the pixel at (x, y) from x + shear * y: `Image.transform`, AFFINE. Black outside.

    Exact while shear * height is below 32,768. Above, Pillow uses floating point.
    """
    return _sample(images, 1.0, shear, 0.0, 0.0, 1.0, 0.0)


@_operation
def shear_y(images: tf.Tensor, shear: tf.Tensor) -> tf.Tensor:
    """Takes the pixel at (y, x) from y + shear * x: `Image.transform`, AFFINE. Black outside.

    Exact while shear * width is below 32,768. Above, Pillow uses floating point.
    """
    return _sample(images, 1.0, 0.0, 0.0, shear, 1.0, 0.0)


@_operation
def solarize(images: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts values of at least the threshold: `ImageOps.solarize`. 0 inverts all, 256 none."""
    first = tf.cast(tf.math.ceil(tf.clip_by_value(threshold, 0.0, 256.0)), tf.int32)
    return tf.where(tf.cast(images, tf.int32) < _each_image(first), images, 255 - images)


@_operation
def translate_x(images: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Takes the pixel at (x, y) from x + pixels: `Image.transform`, AFFINE. Black outside."""
    return _sample(images, 1.0, 0.0, _whole(pixels, images.shape[2]), 0.0, 1.0, 0.0)


@_operation
def translate_y(images: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Takes the pixel at (y, x) from y + pixels: `Image.transform`, AFFINE. Black outside."""
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
"""The operations of RandAugment by name: `operation(images, magnitude)`, both checked."""


def checked_images(images: tf.Tensor, sized: bool = False) -> tf.Tensor:
    """Returns images as a tensor, if they are uint8 RGB images.

    Args:
        images: uint8 `[N, H, W, 3]`, values 0 to 255.
        sized: Whether H and W must be known.

    Returns:
        The same images as a tensor.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If their shape is not `[N, H, W, 3]`, or `sized` and H or W is unknown.

    Example:

    >>> checked_images(np.zeros([2, 8, 8, 3], np.uint8)).shape
    TensorShape([2, 8, 8, 3])
    """
    images = tf.convert_to_tensor(images)
    if images.dtype != tf.uint8:
        raise TypeError(
            f"images must be uint8 with values 0 to 255, not {images.dtype.name}. "
            "Augment images before you scale or normalize them."
        )
    if images.shape.rank != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have the shape [N, H, W, 3], not {images.shape}.")
    if sized and None in images.shape[1:3]:
        raise ValueError(
            f"images must have a known height and width, not the shape {images.shape}. "
            "Call images.set_shape([None, height, width, 3]) first."
        )
    return images


def _checked_magnitude(magnitude: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Returns one magnitude per image, float64 [N], all finite.

    Known values are checked at once, values that a graph computes when the graph runs.
    """
    if not tf.is_tensor(magnitude):
        magnitude = np.asarray(magnitude, np.float64)
    magnitude = tf.cast(magnitude, tf.float64)
    if not magnitude.shape.is_compatible_with(images.shape[:1]):
        raise ValueError(
            f"magnitude must be one number per image, of shape {images.shape[:1]}, "
            f"not of shape {magnitude.shape}."
        )
    known = tf.get_static_value(magnitude)
    if known is None:
        return tf.debugging.check_numerics(magnitude, "magnitude must be finite")
    if not np.isfinite(known).all():
        raise ValueError(f"magnitude must be finite, not {known.tolist()}.")
    return magnitude


def _each_image(values: tf.Tensor) -> tf.Tensor:
    """Reshapes one value per image, [N], to [N, 1, 1, 1], to broadcast over the pixels."""
    return tf.reshape(values, [-1, 1, 1, 1])


def _luma(images: tf.Tensor) -> tf.Tensor:
    """Returns Pillow's gray values, int32 [N, H, W]: ITU-R 601-2 weights in units of 1/65536."""
    red, green, blue = tf.unstack(tf.cast(images, tf.int32), axis=-1)
    return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 0x8000, 16)


def _blend(plain: tf.Tensor, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns plain + factor * (images - plain) in the float arithmetic of C, clipped to 0..255."""
    plain, factor = tf.cast(plain, tf.float32), _each_image(tf.cast(factor, tf.float32))
    # A change beyond 256 results in 0 or 255 anyway. The clip between product and sum keeps
    # compilers from fusing them into one instruction, which would round once instead of twice.
    change = tf.clip_by_value(factor * (tf.cast(images, tf.float32) - plain), -256.0, 256.0)
    return tf.cast(tf.clip_by_value(plain + change, 0.0, 255.0), tf.uint8)


def _look_up(images: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Replaces each value by its entry in a table per image and channel, [N, 3, 256]."""
    count = tf.shape(images)[0]
    table = tf.reshape(tf.cast(table, tf.uint8), [count, 3 * 256])
    pixels = tf.reshape(tf.cast(images, tf.int32), [count, -1, 3])
    values = tf.gather(table, pixels + 256 * tf.range(3), batch_dims=1)
    return tf.reshape(values, tf.shape(images))


def _whole(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Rounds a shift half up, like nearest-pixel sampling, after clipping it to the image size."""
    return tf.floor(tf.clip_by_value(pixels, -size, size) + 0.5)


def _sample(
    images: tf.Tensor,
    a: tf.Tensor | float,
    b: tf.Tensor | float,
    c: tf.Tensor | float,
    d: tf.Tensor | float,
    e: tf.Tensor | float,
    f: tf.Tensor | float,
) -> tf.Tensor:
    """Takes pixel (x, y) from the pixel nearest to (a x + b y + c, d x + e y + f). Black outside.

    Coefficients are float64 [N], or one number for all images. Pillow computes positions in units
    of 1/65536 pixel, starting from the middle of the first pixel.
    """
    height, width = images.shape[1], images.shape[2]

    def source(
        step_x: tf.Tensor | float, step_y: tf.Tensor | float, start: tf.Tensor | float
    ) -> tf.Tensor:
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
