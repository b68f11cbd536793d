"""Weak views of photographs of any size: a random part of each image, resized.

As for the layers in `policies.py`, the view of image i depends only on the seed, on i, on the image
and on the arguments of the layer.

Reference:
    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6. The parts are drawn
    like those of torchvision's `RandomResizedCrop`; the pixels are those of Pillow's
    `Image.resize`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.augment.ops import checked_images
from daso_tf.platform.checks import checked_whole_number
from daso_tf.platform.draws import RANDOM_RESIZED_CROP, below, uniform

_TRIES = 10
# Fractional bits of Pillow's fixed-point weights. With 8 more bits for a pixel they fit into int32.
_PRECISION = 22


@keras.saving.register_keras_serializable(package="daso_tf")
class RandomResizedCrop(keras.layers.Layer):
    """Weak views: a random part of each image, resized to a square, flipped or not.

    Up to ten times, the area of a part is drawn uniformly and its aspect ratio log-uniformly. The
    first part that fits into the image is placed at random. If none fits, the view shows the
    largest central part with an allowed aspect ratio. The pixels are exactly those of Pillow's
    `image.resize((size, size), BILINEAR, box=part)`: the filter is widened when the part is reduced
    (antialiasing), and it includes pixels outside the part that it reaches.

    Args:
        size: Height and width of the views in pixels, at least 1.
        scale: Smallest and largest area of the part, as fractions of the area of the image, in
            (0, 1].
        ratio: Smallest and largest aspect ratio of the part, width / height, above 0.
        horizontal_flip: Whether to flip each view with probability 1/2.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Call arguments:
        images: uint8 `[N, H, W, 3]`, values 0 to 255. H and W must be known.
        seed: Two integers, `[2]`. The same seed gives the same views.

    Returns:
        uint8 `[N, size, size, 3]`.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If an argument is outside its range, or the images or the seed have another
            shape.

    Example:

    >>> images = np.zeros([8, 48, 64, 3], np.uint8)
    >>> daso_tf.augment.RandomResizedCrop(32)(images, seed=[0, 1]).shape
    TensorShape([8, 32, 32, 3])

    Reference:
        Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6.
    """

    def __init__(
        self,
        size: int = 224,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        horizontal_flip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = checked_whole_number("size", size, least=1)
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.horizontal_flip = bool(horizontal_flip)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale must be two fractions of the area in (0, 1], ascending, not {scale!r}."
            )
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(
                "ratio must be two finite aspect ratios (width / height) above 0, ascending, "
                f"not {ratio!r}."
            )

    def call(self, images: tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Returns the weak views."""
        images = checked_images(images, sized=True)
        height, width = images.shape[1], images.shape[2]
        boxes, flipped = self.boxes(tf.shape(images)[0], height, width, seed)
        left, upper, right, lower = tf.unstack(boxes, axis=1)
        place = tf.range(self.size)
        columns = tf.where(flipped[:, tf.newaxis], self.size - 1 - place, place)
        # As in Pillow, the width is resized first (unless the height is over 100 times the width)
        # and the result is rounded: uint8 [N, H, size, 3], 33 MB for 192 images from 256 to 224
        # pixels. XLA stores nothing else. Without XLA, each term of the sum in `_resample` is an
        # int32 tensor of that shape, 132 MB, and three of them exist at a time.
        images = _resample(images, 2, left, right - left, columns, self.size)
        return _resample(images, 1, upper, lower - upper, place[tf.newaxis], self.size)

    def boxes(
        self,
        count: int | tf.Tensor,
        height: int,
        width: int,
        seed: tf.Tensor | Sequence[int],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws the part of each image that a call with the same seed shows.

        Args:
            count: Number of images.
            height: Height of the images in pixels.
            width: Width of the images in pixels.
            seed: Two integers, `[2]`.

        Returns:
            int32 `[count, 4]`: left, upper, right and lower, as in Pillow; and bool `[count]`:
            whether the view is flipped.

        Raises:
            ValueError: If the seed is not two integers.

        Example:

        >>> crop = daso_tf.augment.RandomResizedCrop(32)
        >>> boxes, flipped = crop.boxes(8, 48, 64, seed=[0, 1])
        >>> boxes.shape, flipped.shape
        (TensorShape([8, 4]), TensorShape([8]))
        """
        # float64, because devices may differ in the last bit of sqrt and exp. In float64, such a
        # difference practically never changes a position that is rounded to whole pixels.
        draws = tf.cast(uniform(seed, RANDOM_RESIZED_CROP, count, 2 * _TRIES + 3), tf.float64)
        areas, ratios, place, flip = tf.split(draws, [_TRIES, _TRIES, 2, 1], axis=1)
        area = height * width * _between(self.scale, areas)
        ratio = tf.exp(_between([math.log(limit) for limit in self.ratio], ratios))
        tried = tf.stack([tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))], axis=2)
        tried = tf.cast(tried, tf.int32)
        fits = tf.reduce_all((tried > 0) & (tried <= [height, width]), axis=2)
        first = tf.reduce_min(tf.where(fits, tf.range(_TRIES), _TRIES), axis=1)[:, tf.newaxis]
        found = first < _TRIES
        shape = tf.gather(tried, tf.minimum(first, _TRIES - 1), axis=1, batch_dims=1)[:, 0]
        shape = tf.where(found, shape, self._central(height, width))
        free = [height, width] - shape
        corner = tf.where(found, below(free + 1, place), free // 2)
        boxes = tf.reverse(tf.concat([corner + shape, corner], axis=1), axis=[1])
        return boxes, (flip[:, 0] < 0.5) & self.horizontal_flip

    def _central(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the largest part with an allowed aspect ratio."""
        smallest, largest = self.ratio
        if width / height < smallest:
            return max(round(width / smallest), 1), width
        if width / height > largest:
            return height, max(round(height * largest), 1)
        return height, width

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the views."""
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "size": self.size,
            "scale": self.scale,
            "ratio": self.ratio,
            "horizontal_flip": self.horizontal_flip,
        }


def _between(limits: Sequence[float], draw: tf.Tensor) -> tf.Tensor:
    low, high = limits
    return low + (high - low) * draw


def _resample(
    images: tf.Tensor,
    axis: int,
    start: tf.Tensor,
    length: tf.Tensor,
    place: tf.Tensor,
    size: int,
) -> tf.Tensor:
    """Resizes the part [start, start + length) of one axis to `size` pixels, for each image.

    `start` and `length` are [N]. `place`, [N or 1, size], is the position in the resized part that
    each pixel of the result shows. The weights are whole numbers, as in Pillow, so every device and
    compiler computes the same sum.
    """
    source = images.shape[axis]
    scale = (tf.cast(length, tf.float64) / size)[:, tf.newaxis]
    support = tf.maximum(scale, 1.0)  # half the width of the triangle filter
    center = tf.cast(start, tf.float64)[:, tf.newaxis] + (tf.cast(place, tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(tf.floor(center - support + 0.5), tf.int32), 0)
    taps = max(-(-2 * source // size), 2)  # the most pixels that any filter covers
    position = first[:, tf.newaxis] + tf.range(taps)[:, tf.newaxis]  # [N, taps, size]
    distance = tf.abs(tf.cast(position, tf.float64) + 0.5 - center[:, tf.newaxis])
    weight = tf.maximum(1.0 - distance / support[:, tf.newaxis], 0.0)
    weight = tf.where(position < source, weight, 0.0)
    weight = weight / tf.reduce_sum(weight, axis=1, keepdims=True)
    weight = tf.cast(tf.floor(weight * 2.0**_PRECISION + 0.5), tf.int32)
    position = tf.minimum(position, source - 1)
    total = 2 ** (_PRECISION - 1)  # rounds half up
    for tap in range(taps):
        pixels = tf.gather(images, position[:, tap], axis=axis, batch_dims=1)
        weights = tf.reshape(weight[:, tap], [-1, 1, size, 1] if axis == 2 else [-1, size, 1, 1])
        total += tf.cast(pixels, tf.int32) * weights
    return tf.cast(tf.bitwise.right_shift(total, _PRECISION), tf.uint8)
