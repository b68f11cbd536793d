"""Weak and strong views: which operation each image gets, where it is cropped, what is cut out.

Layers that draw for every image by itself. What image i becomes depends on the seed, i, the image
and the layer's arguments alone: not on the rest of the batch, the device or the compiler.

Source: Sohn et al., "FixMatch", 2020, section 2.3 and appendix D; DASO, section 4.1.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from daso_tf.augment.checks import checked_sized_images
from daso_tf.augment.ops import OPS
from daso_tf.platform.draws import RAND_AUGMENT, WEAK, below, uniform

# The operation at the end of the list is the one that is never carried out.
_NAMES = (*(name for name in OPS if name != "identity"), "identity")
_NOTHING = len(_NAMES) - 1
_SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_LEVELS = tuple(level / 10 for level in range(1, 10))


@keras.saving.register_keras_serializable(package="daso_tf")
class Weak(keras.layers.Layer):
    """Weak views: each image is flipped or not, padded by reflection and cropped at random.

    Args:
        horizontal_flip: Whether half of the images are flipped.
        padding: What is added on each side before the crop, as a fraction of that side's length:
            0 or more, below 1; 0 crops nothing. An eighth is 4 pixels of 32.

    Call arguments:
        images: uint8 `[N, H, W, 3]`, values 0 to 255; H and W known.
        seed: Two integers, `[2]`. The same seed gives the same views.

    Returns:
        uint8 `[N, H, W, 3]`.

    Raises:
        TypeError: The images are not uint8.
        ValueError: An argument is out of its range, or the images or the seed have another shape.

    Example:

    >>> images = np.zeros([8, 32, 32, 3], np.uint8)
    >>> Weak()(images, seed=[0, 1]).shape
    TensorShape([8, 32, 32, 3])
    """

    def __init__(self, horizontal_flip: bool = True, padding: float = 0.125, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= padding < 1:
            raise ValueError(f"padding must be a fraction from 0 to below 1, got {padding!r}")
        self.horizontal_flip = horizontal_flip
        self.padding = padding

    def call(self, images, seed):
        """Returns the weak views of uint8 images [N, H, W, 3]."""
        images = checked_sized_images(images)
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
        flip, down, right = tf.unstack(uniform(seed, WEAK, count, 3), axis=1)
        row, column = self._crop(down, height), self._crop(right, width)
        if self.horizontal_flip:
            column = tf.where(flip[:, tf.newaxis] < 0.5, width - 1 - column, column)
        first = tf.range(count)[:, tf.newaxis, tf.newaxis] * (height * width)
        index = first + row[:, :, tf.newaxis] * width + column[:, tf.newaxis, :]
        return tf.gather(tf.reshape(images, [-1, 3]), index)

    def _crop(self, draw, length):
        """Returns where in the image each row (or column) of a crop comes from: int32 [N, L]."""
        padding = int(self.padding * length)
        start = below(2 * padding + 1, draw) - padding
        reflected_at_first = tf.abs(start[:, tf.newaxis] + tf.range(length))
        return length - 1 - tf.abs(length - 1 - reflected_at_first)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the images, which stays."""
        return input_shape

    def get_config(self):
        """Returns the arguments that make this layer again."""
        config = {"horizontal_flip": self.horizontal_flip, "padding": self.padding}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="daso_tf")
class RandAugment(keras.layers.Layer):
    """Strong distortion: random operations on each image, then a grey square somewhere in it.

    Each of `num_ops` times, an image draws one of the 14 operations, a level from 1 to 9 of 10, a
    sign, and whether the operation is applied at all (every other time). The strong view of an
    image is this layer's output for its weak view.

    Args:
        num_ops: How many operations each image draws: 0 or more.
        cutout: The grey square's side in pixels of these images: 0 or more; 0 paints none. As
            Pillow's rectangle has both its ends, one pixel more is grey where no border cuts it.

    Call arguments:
        images: uint8 `[N, H, W, 3]`, values 0 to 255; H and W known.
        seed: Two integers, `[2]`. The same seed gives the same views.

    Returns:
        uint8 `[N, H, W, 3]`.

    Raises:
        TypeError: The images are not uint8.
        ValueError: An argument is out of its range, or the images or the seed have another shape.

    Example:

    >>> images = np.zeros([8, 32, 32, 3], np.uint8)
    >>> weak = Weak()(images, seed=[0, 1])
    >>> RandAugment()(weak, seed=[0, 1]).shape
    TensorShape([8, 32, 32, 3])
    """

    def __init__(self, num_ops: int = 2, cutout: int = 16, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("num_ops", num_ops), ("cutout", cutout)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be a whole number, 0 or more, got {value!r}")
        self.num_ops = num_ops
        self.cutout = cutout

    def call(self, images, seed):
        """Returns the distorted uint8 images [N, H, W, 3]."""
        images = checked_sized_images(images)
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

    def compute_output_shape(self, input_shape):
        """Returns the shape of the images, which stays."""
        return input_shape

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "num_ops": self.num_ops, "cutout": self.cutout}


def magnitudes(name: str, height: int, width: int) -> list[float]:
    """Lists an operation's magnitudes at the levels 1 to 9 of 10, signs left out.

    Args:
        name: One of `OPS`.
        height: The images' height in pixels.
        width: Their width in pixels.

    Returns:
        Nine numbers, in the operation's own unit.

    Raises:
        KeyError: There is no such operation.

    Example:

    >>> magnitudes("rotate", 32, 32)
    [3, 6, 9, 12, 15, 18, 21, 24, 27]
    """
    at = {
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
    }[name]
    return [at(level) for level in _LEVELS]


def _distort(images, draws):
    """Carries out one operation, or none, on each image, by draws [N, 4]."""
    which, level, sign, applied = tf.unstack(draws, axis=1)
    operation = tf.where(applied < 0.5, below(len(_NAMES), which), _NOTHING)
    table = [magnitudes(name, images.shape[1], images.shape[2]) for name in _NAMES]
    level = below(len(_LEVELS), level)
    magnitude = tf.gather_nd(np.array(table), tf.stack([operation, level], axis=1))
    signed = tf.gather(np.isin(_NAMES, _SIGNED), operation)
    return _carry_out(images, operation, tf.where(signed & (sign < 0.5), -magnitude, magnitude))


def _carry_out(images, operation, magnitude):
    """Carries out each image's operation, an index into `_NAMES`.

    Most images need none, and no image needs most operations. So the batch is sorted by operation
    and worked through in chunks of a few images that share theirs: a loop that XLA compiles once,
    and whose time follows what was drawn.
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

    def next_chunk(i, images):
        current = tf.math.count_nonzero(last_chunk < i, dtype=tf.int32)
        first, last, chunks_before = (
            tf.gather(values, current) for values in (first_image, last_image, first_chunk)
        )
        position = first + (i - chunks_before) * chunk + tf.range(chunk)
        # A chunk that is not full takes its last image several times, with the same outcome.
        rows = tf.gather(order, tf.minimum(position, last))
        before, strength = tf.gather(images, rows), tf.gather(magnitude, rows)
        after = tf.switch_case(
            current, [functools.partial(OPS[name], before, strength) for name in _NAMES[:_NOTHING]]
        )
        return i + 1, tf.tensor_scatter_nd_update(images, rows[:, tf.newaxis], after)

    return tf.while_loop(lambda i, images: i <= last_chunk[-1], next_chunk, (0, images))[1]


def _cut_out(images, draws, side):
    """Paints the square around a point drawn in each image, both its ends included."""

    def covered(draw, length):
        first = tf.cast(tf.maximum(draw * length - side / 2, 0.0), tf.int32)[:, tf.newaxis]
        return (tf.range(length) >= first) & (tf.range(length) <= first + side)

    column, row = covered(draws[:, 0], images.shape[2]), covered(draws[:, 1], images.shape[1])
    square = row[:, :, tf.newaxis, tf.newaxis] & column[:, tf.newaxis, :, tf.newaxis]
    return tf.where(square, tf.constant(127, tf.uint8), images)
