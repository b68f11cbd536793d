"""Weak and strong views of images, as FixMatch and DASO use them.

The layers draw separately for each image. The view of image i depends on the seed, on i, on the
image and on the arguments of the layer, and on nothing else: not on the rest of the batch, the
device or the compiler.

Reference:
    Sohn et al., "FixMatch", 2020, section 2.3 and appendix D; DASO, section 4.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.augment.ops import OPS, checked_images
from daso_tf.platform import cores
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.draws import RAND_AUGMENT, WEAK, below, uniform

# `identity` comes last. Its index means that an image gets no operation.
_NAMES = (*(name for name in OPS if name != "identity"), "identity")
_NOTHING = len(_NAMES) - 1
_SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_LEVELS = tuple(level / 10 for level in range(1, 10))


@keras.saving.register_keras_serializable(package="daso_tf")
class Weak(keras.layers.Layer):
    """Weak views: each image is flipped or not, padded by reflection, and cropped at random.

    Args:
        horizontal_flip: Whether to flip each image with probability 1/2.
        padding: Width of the padding on each side before the crop: a fraction of the length of
            that side, a float in [0, 1), or pixels, an int of at least 0. An eighth is 4 pixels of
            32. With 0, images are not cropped.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Call arguments:
        images: uint8 `[N, H, W, 3]`, values 0 to 255. H and W must be known.
        seed: Two integers, `[2]`. The same seed gives the same views.

    Returns:
        uint8 `[N, H, W, 3]`.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If an argument is outside its range, or the images or the seed have another
            shape.

    Example:

    >>> images = np.zeros([8, 32, 32, 3], np.uint8)
    >>> daso_tf.augment.Weak()(images, seed=[0, 1]).shape
    TensorShape([8, 32, 32, 3])

    Reference:
        Sohn et al., "FixMatch", 2020, section 2.3.
    """

    def __init__(
        self, horizontal_flip: bool = True, padding: float | int = 0.125, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.horizontal_flip = bool(horizontal_flip)
        in_pixels = isinstance(padding, int)
        self.padding: float | int = (
            checked_whole_number("padding", padding, least=0)
            if in_pixels
            else checked_number("padding", padding, least=0, below=1)
        )

    def call(self, images: tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Returns the weak views."""
        images = checked_images(images, sized=True)
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
        flip, down, right = tf.unstack(uniform(seed, WEAK, count, 3), axis=1)
        row, column = self._crop(down, height), self._crop(right, width)
        if self.horizontal_flip:
            column = tf.where(flip[:, tf.newaxis] < 0.5, width - 1 - column, column)
        first = tf.range(count)[:, tf.newaxis, tf.newaxis] * (height * width)
        index = first + row[:, :, tf.newaxis] * width + column[:, tf.newaxis, :]
        return tf.gather(tf.reshape(images, [-1, 3]), index)

    def _crop(self, draw: tf.Tensor, length: int) -> tf.Tensor:
        """Returns the row (or column) of the image that each one of a crop shows: int32 [N, L]."""
        in_pixels = isinstance(self.padding, int)
        padding = self.padding if in_pixels else int(self.padding * length)
        if padding >= length:
            raise ValueError(
                f"padding must be below the side of the images, {length}, not {padding}."
            )
        start = below(2 * padding + 1, draw) - padding
        reflected_at_first = tf.abs(start[:, tf.newaxis] + tf.range(length))
        return length - 1 - tf.abs(length - 1 - reflected_at_first)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the images: views have the same."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = {"horizontal_flip": self.horizontal_flip, "padding": self.padding}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="daso_tf")
class RandAugment(keras.layers.Layer):
    """Strong views: random operations on each image, then a gray square (Cutout) at a random place.

    `num_ops` times, each image draws one of the 14 operations in `OPS`, a level from 1 to 9 (of
    10), a sign, and whether to apply the operation, with probability 1/2. To make a strong view,
    apply this layer to a weak view.

    Args:
        num_ops: Number of operations that each image draws, at least 0.
        cutout: Side of the gray square in pixels, at least 0. With 0 there is no square. As
            rectangles of Pillow include both ends, the square covers one pixel more, unless the
            border of the image cuts it.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Call arguments:
        images: uint8 `[N, H, W, 3]`, values 0 to 255. H and W must be known.
        seed: Two integers, `[2]`. The same seed gives the same views.

    Returns:
        uint8 `[N, H, W, 3]`.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If an argument is outside its range, or the images or the seed have another
            shape.

    Example:

    >>> images = np.zeros([8, 32, 32, 3], np.uint8)
    >>> weak = daso_tf.augment.Weak()(images, seed=[0, 1])
    >>> daso_tf.augment.RandAugment()(weak, seed=[0, 1]).shape
    TensorShape([8, 32, 32, 3])

    Reference:
        Cubuk et al., "RandAugment", 2020; Sohn et al., "FixMatch", 2020, appendix D.
    """

    def __init__(self, num_ops: int = 2, cutout: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_ops = checked_whole_number("num_ops", num_ops, least=0)
        self.cutout = checked_whole_number("cutout", cutout, least=0)

    def call(self, images: tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Returns the strong views."""
        images = checked_images(images, sized=True)
        count = tf.shape(images)[0]
        draws = uniform(seed, RAND_AUGMENT, count, 4 * self.num_ops + 2)
        if self.num_ops:
            rounds = tf.reshape(draws[:, :-2], [count, self.num_ops, 4])
            images = tf.while_loop(
                lambda i, images: i < self.num_ops,
                lambda i, images: (i + 1, _distort(images, rounds[:, i])),
                (0, images),
            )[1]
        return _cut_out(images, draws[:, -2:], self.cutout) if self.cutout else images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the images: views have the same."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "num_ops": self.num_ops, "cutout": self.cutout}


def magnitudes(name: str, height: int, width: int) -> list[float]:
    """Returns the magnitudes of an operation at the levels 1 to 9 (of 10), without signs.

    Args:
        name: A key of `OPS`.
        height: Height of the images in pixels.
        width: Width of the images in pixels.

    Returns:
        Nine numbers in the unit of the operation.

    Raises:
        KeyError: If there is no operation of that name.

    Example:

    >>> magnitudes("rotate", 32, 32)
    [3, 6, 9, 12, 15, 18, 21, 24, 27]
    """
    magnitude_at: dict[str, Callable[[float], float]] = {
        **dict.fromkeys(("autocontrast", "equalize", "identity"), lambda level: 0.0),
        **dict.fromkeys(
            ("brightness", "color", "contrast", "sharpness"), lambda level: level * 0.9 + 0.05
        ),
        **dict.fromkeys(("shear_x", "shear_y"), lambda level: level * 0.3),
        "posterize": lambda level: int(level * 4) + 4,
        "rotate": lambda level: int(level * 30),
        "solarize": lambda level: 256 - int(level * 256),
        "translate_x": lambda level: int(level * 0.3 * width),
        "translate_y": lambda level: int(level * 0.3 * height),
    }
    return [magnitude_at[name](level) for level in _LEVELS]


def _distort(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Applies one operation or none to each image, as chosen by its row of draws, [N, 4]."""
    which, level, sign, applied = tf.unstack(draws, axis=1)
    operation = tf.where(applied < 0.5, below(len(_NAMES), which), _NOTHING)
    table = [magnitudes(name, images.shape[1], images.shape[2]) for name in _NAMES]
    level = below(len(_LEVELS), level)
    magnitude = tf.gather_nd(np.array(table), tf.stack([operation, level], axis=1))
    signed = tf.gather(np.isin(_NAMES, _SIGNED), operation)
    apply = _apply_all_and_choose if cores.gpus() else _apply_in_chunks
    return apply(images, operation, tf.where(signed & (sign < 0.5), -magnitude, magnitude))


def _apply_in_chunks(images: tf.Tensor, operation: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Applies to each image the operation with its index in `_NAMES`, on a CPU.

    Half of the images have no operation, and the others need one of 14. So the batch is sorted by
    operation and processed in small chunks of images that have the same operation. XLA compiles
    this loop once, and each image costs only the operation that it has drawn.
    """
    count = tf.shape(images)[0]
    chunk = tf.maximum(count // 32, 1)
    order = tf.argsort(operation, stable=True)
    counts = tf.math.count_nonzero(
        operation[:, tf.newaxis] == tf.range(_NOTHING), axis=0, dtype=tf.int32
    )
    chunks = (counts + chunk - 1) // chunk
    first_image, first_chunk = (tf.cumsum(c, exclusive=True) for c in (counts, chunks))
    last_image, last_chunk = first_image + counts - 1, first_chunk + chunks - 1

    def next_chunk(i: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        current = tf.math.count_nonzero(last_chunk < i, dtype=tf.int32)
        first, last, chunks_before = (
            tf.gather(values, current) for values in (first_image, last_image, first_chunk)
        )
        position = first + (i - chunks_before) * chunk + tf.range(chunk)
        # A chunk that is not full repeats its last image, which writes the same result again.
        rows = tf.gather(order, tf.minimum(position, last))
        before, strength = tf.gather(images, rows), tf.gather(magnitude, rows)
        after = tf.switch_case(
            current, [functools.partial(OPS[name], before, strength) for name in _NAMES[:_NOTHING]]
        )
        return i + 1, tf.tensor_scatter_nd_update(images, rows[:, tf.newaxis], after)

    return tf.while_loop(lambda i, images: i <= last_chunk[-1], next_chunk, (0, images))[1]


def _apply_all_and_choose(
    images: tf.Tensor, operation: tf.Tensor, magnitude: tf.Tensor
) -> tf.Tensor:
    """Does the same as `_apply_in_chunks` without control flow, for a GPU.

    Whether a loop goes on and which branch it takes are decided by the host, which would wait for
    the GPU at each of about 30 chunks. So every operation is computed for every image, and each
    image takes the result of its own. A fixed number of chunks would not help: all images may draw
    the same operation, so each operation would need room for all of them.
    """
    after = images
    for index, name in enumerate(_NAMES[:_NOTHING]):
        chosen = operation == index
        # Magnitudes of other operations may be outside the range of this one.
        allowed = tf.constant(magnitudes(name, *images.shape[1:3])[0], magnitude.dtype)
        result = OPS[name](images, tf.where(chosen, magnitude, allowed))
        after = tf.where(tf.reshape(chosen, [-1, 1, 1, 1]), result, after)
    return after


def _cut_out(images: tf.Tensor, draws: tf.Tensor, side: int) -> tf.Tensor:
    """Paints a gray square, both ends included, around a random point of each image."""

    def covered(draw: tf.Tensor, length: int) -> tf.Tensor:
        first = tf.cast(tf.maximum(draw * length - side / 2, 0.0), tf.int32)[:, tf.newaxis]
        return (tf.range(length) >= first) & (tf.range(length) <= first + side)

    column, row = covered(draws[:, 0], images.shape[2]), covered(draws[:, 1], images.shape[1])
    square = row[:, :, tf.newaxis, tf.newaxis] & column[:, tf.newaxis, :, tf.newaxis]
    return tf.where(square, tf.constant(127, tf.uint8), images)
