"""Weak views of photographs of any size: a random part of each, resized.

What image i becomes depends on the seed, i, the image and the layer's arguments alone, as in
`policies.py`.

Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6; the rule that draws
a crop is that of torchvision's `RandomResizedCrop`, the pixels are those of Pillow's
`Image.resize`.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from daso_tf.augment.checks import checked_sized_images
from daso_tf.platform.draws import RANDOM_RESIZED_CROP, below, uniform

_TRIES = 10
_PRECISION = 22  # bits behind the point of Pillow's weights; 8 more of a pixel fit into an int32


@keras.saving.register_keras_serializable(package="daso_tf")
class RandomResizedCrop(keras.layers.Layer):
    """Weak views: a random part of each image, resized to a square, flipped or not.

    Ten times, a part's area is drawn uniformly and its aspect ratio log-uniformly, and the first
    part that fits into the image is put at a random place of it. Where none fits, it is the largest
    central part whose aspect ratio is allowed. The pixels are exactly those of Pillow's
    `image.resize((size, size), BILINEAR, box=part)`: antialiased where the part is reduced, and
    with the pixels beside the part where the filter reaches them.

    Args:
        size: The views' height and width in pixels: 1 or more.
        scale: Smallest and largest area of the part, as a fraction of the image's: above 0, up
            to 1.
        ratio: Smallest and largest aspect ratio of the part, width over height: above 0.
        horizontal_flip: Whether half of the images are flipped.

    Call arguments:
        images: uint8 `[N, H, W, 3]`, values 0 to 255; H and W known.
        seed: Two integers, `[2]`. The same seed gives the same views.

    Returns:
        uint8 `[N, size, size, 3]`.

    Raises:
        TypeError: The images are not uint8.
        ValueError: An argument is out of its range, or the images or the seed have another shape.

    Example:

    >>> images = np.zeros([8, 48, 64, 3], np.uint8)
    >>> RandomResizedCrop(32)(images, seed=[0, 1]).shape
    TensorShape([8, 32, 32, 3])
    """

    def __init__(
        self,
        size: int = 224,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        horizontal_flip: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a whole number of pixels, 1 or more, got {size!r}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"scale must be two fractions of the area, above 0 to 1, ascending, got {scale!r}"
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
            raise ValueError(
                f"ratio must be two aspect ratios above 0, width / height, ascending, got {ratio!r}"
            )
        self.size = size
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.horizontal_flip = horizontal_flip

    def call(self, images, seed):
        """Returns the weak views [N, size, size, 3] of uint8 images [N, H, W, 3]."""
        images = checked_sized_images(images)
        height, width = images.shape[1], images.shape[2]
        boxes, flipped = self.boxes(tf.shape(images)[0], height, width, seed)
        left, upper, right, lower = tf.unstack(boxes, axis=1)
        place = tf.range(self.size)
        columns = tf.where(flipped[:, tf.newaxis], self.size - 1 - place, place)
        # As in Pillow the width comes first (but where the height is over 100 times the width) and
        # whole grey levels are kept between: uint8 [N, H, size, 3], 33 MB for 192 images from 256
        # to 224 pixels. XLA keeps nothing else; without it each step of the sum is an int32 tensor
        # of that shape, 132 MB, and three of them live at a time.
        images = _resample(images, 2, left, right - left, columns, self.size)
        return _resample(images, 1, upper, lower - upper, place[tf.newaxis], self.size)

    def boxes(
        self, count: int | tf.Tensor, height: int, width: int, seed
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws the part of each image that a call with this seed shows.

        Args:
            count: How many images.
            height: Their height in pixels.
            width: Their width in pixels.
            seed: Two integers, `[2]`.

        Returns:
            int32 `[count, 4]`: left, upper, right, lower, as Pillow has them, and bool `[count]`:
            whether the view is flipped.

        Raises:
            ValueError: The seed is not two integers.

        Example:

        >>> boxes, flipped = RandomResizedCrop(32).boxes(8, 48, 64, seed=[0, 1])
        >>> boxes.shape, flipped.shape
        (TensorShape([8, 4]), TensorShape([8]))
        """
        # Doubles: should devices differ in the last bit, it moves a whole pixel as good as never.
        draws = tf.cast(uniform(seed, RANDOM_RESIZED_CROP, count, 2 * _TRIES + 3), tf.float64)
        areas, ratios, place, flip = tf.split(draws, [_TRIES, _TRIES, 2, 1], axis=1)
        area = height * width * _between(*self.scale, areas)
        ratio = tf.exp(_between(*map(math.log, self.ratio), ratios))
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
        """Returns the height and width of the largest part whose aspect ratio is allowed."""
        smallest, largest = self.ratio
        if width / height < smallest:
            return max(round(width / smallest), 1), width
        if width / height > largest:
            return height, max(round(height * largest), 1)
        return height, width

    def compute_output_shape(self, input_shape):
        """Returns the shape of the views."""
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "size": self.size,
            "scale": self.scale,
            "ratio": self.ratio,
            "horizontal_flip": self.horizontal_flip,
        }


def _between(low: float, high: float, draw: tf.Tensor) -> tf.Tensor:
    return low + (high - low) * draw


def _resample(images, axis: int, start, length, place, size: int) -> tf.Tensor:
    """Resizes the part [start, start + length) of an axis, each image's own, to a size.

    The weights are Pillow's whole numbers, so that every device and compiler sums to the same.
    Start and length are [N]; place, [N or 1, size], is where in the resized part each result lies.
    """
    source = images.shape[axis]
    scale = (tf.cast(length, tf.float64) / size)[:, tf.newaxis]
    support = tf.maximum(scale, 1.0)  # half the width of the triangle filter
    centre = tf.cast(start, tf.float64)[:, tf.newaxis] + (tf.cast(place, tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(tf.floor(centre - support + 0.5), tf.int32), 0)
    taps = max(-(-2 * source // size), 2)  # the most pixels that any filter covers
    position = first[:, tf.newaxis] + tf.range(taps)[:, tf.newaxis]  # [N, taps, size]
    distance = tf.abs(tf.cast(position, tf.float64) + 0.5 - centre[:, tf.newaxis])
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
