"""Weak and strong views: which operation each image gets, where it is cropped, what is cut out."""

import keras
import numpy as np
import tensorflow as tf

from daso_tf.augment import ops

LEVELS = 10  # a level is drawn from 1..9 of these 10


def uniform(seed: tf.Tensor, count: tf.Tensor, draws: int) -> tf.Tensor:
    """Draws numbers in [0, 1), multiples of 2^-24, one row an image: float32 [count, draws].

    Made of integer bits, which TensorFlow and XLA draw alike; their own floats differ. Row i is the
    same for every count.
    """
    bits = tf.random.stateless_uniform(
        [count, draws], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24


def magnitudes(height: int, width: int) -> dict[str, list[float]]:
    """Lists, for each operation, its magnitude at the levels 1..9 for images of this size."""
    levels = [level / LEVELS for level in range(1, LEVELS)]
    none = [0.0 for _ in levels]
    enhancement = [level * 0.9 + 0.05 for level in levels]
    shear = [level * 0.3 for level in levels]
    return {
        "autocontrast": none,
        "brightness": enhancement,
        "color": enhancement,
        "contrast": enhancement,
        "equalize": none,
        "identity": none,
        "posterize": [int(level * 4) + 4 for level in levels],
        "rotate": [int(level * 30) for level in levels],
        "sharpness": enhancement,
        "shear_x": shear,
        "shear_y": shear,
        "solarize": [256 - int(level * 256) for level in levels],
        "translate_x": [int(level * 0.3 * width) for level in levels],
        "translate_y": [int(level * 0.3 * height) for level in levels],
    }


SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@keras.saving.register_keras_serializable(package="daso_tf")
class Weak(keras.layers.Layer):
    """Weak views: a horizontal flip and a random crop of the reflect-padded image."""

    def __init__(self, horizontal_flip: bool = True, padding: float = 0.125, **kwargs):
        super().__init__(**kwargs)
        self.horizontal_flip = horizontal_flip
        self.padding = padding

    def call(self, images, seed):
        count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
        draws = uniform(seed, count, 3)
        rows = self._offsets(draws[:, 1], height)
        columns = self._offsets(draws[:, 2], width)
        if self.horizontal_flip:
            flip = draws[:, :1] < 0.5
            columns = tf.where(flip, width - 1 - columns, columns)
        first = tf.range(count)[:, tf.newaxis, tf.newaxis] * (height * width)
        index = first + rows[:, :, tf.newaxis] * width + columns[:, tf.newaxis, :]
        return tf.reshape(tf.gather(tf.reshape(images, [-1, 3]), index), tf.shape(images))

    def _offsets(self, draw, size):
        """Returns where each row (or column) of the crops lies in the image: int32 [N, size]."""
        padding = int(self.padding * size)
        start = tf.cast(draw * (2 * padding + 1), tf.int32) - padding
        position = tf.abs(start[:, tf.newaxis] + tf.range(size))
        return size - 1 - tf.abs(size - 1 - position)

    def get_config(self):
        config = super().get_config()
        return {**config, "horizontal_flip": self.horizontal_flip, "padding": self.padding}


@keras.saving.register_keras_serializable(package="daso_tf")
class RandAugment(keras.layers.Layer):
    """Strong distortion: random operations, then cutout, each image with draws of its own."""

    def __init__(self, num_ops: int = 2, cutout: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.num_ops = num_ops
        self.cutout = cutout

    def call(self, images, seed):
        draws = uniform(seed, tf.shape(images)[0], 4 * self.num_ops + 2)
        for i in range(self.num_ops):
            images = _distort(images, draws[:, 4 * i : 4 * i + 4])
        return _cut_out(images, draws[:, -2:], self.cutout) if self.cutout else images

    def get_config(self):
        return {**super().get_config(), "num_ops": self.num_ops, "cutout": self.cutout}


def _distort(images, draws):
    """Applies one operation, drawn with probability 1/2, to each image."""
    table = magnitudes(images.shape[1], images.shape[2])
    operation = tf.cast(draws[:, 0] * len(ops.OPS), tf.int32)
    level = tf.cast(draws[:, 1] * (LEVELS - 1), tf.int32)
    sign = tf.where(draws[:, 2] < 0.5, tf.constant(-1.0, tf.float64), 1.0)
    applied = draws[:, 3] < 0.5
    for i, (name, function) in enumerate(ops.OPS.items()):
        if name == "identity":
            continue
        magnitude = tf.gather(tf.constant(np.array(table[name]), tf.float64), level)
        magnitude = sign * magnitude if name in SIGNED else magnitude
        images = _where_drawn(function, images, magnitude, applied & (operation == i))
    return images


def _where_drawn(function, images, magnitude, drawn):
    """Applies the function to the images drawn, a few at a time: most images do not need it."""
    count = tf.shape(images)[0]
    chunk = (count + 15) // 16
    order = tf.argsort(tf.cast(~drawn, tf.int32), stable=True)
    total = tf.reduce_sum(tf.cast(drawn, tf.int32))

    def body(start, images):
        rows = tf.gather(order, tf.minimum(start + tf.range(chunk), count - 1))
        before = tf.gather(images, rows)
        after = function(before, tf.gather(magnitude, rows))
        keep = tf.gather(drawn, rows)[:, tf.newaxis, tf.newaxis, tf.newaxis]
        after = tf.where(keep, after, before)
        return start + chunk, tf.tensor_scatter_nd_update(images, rows[:, tf.newaxis], after)

    return tf.while_loop(
        lambda start, images: start < total,
        body,
        [0, images],
        shape_invariants=[tf.TensorShape([]), images.shape],
    )[1]


def _cut_out(images, draws, size):
    """Paints a grey square around a point drawn in each image: both ends inclusive, as Pillow."""

    def covered(draw, length):
        first = tf.cast(tf.maximum(draw * length - size / 2, 0.0), tf.int32)[:, tf.newaxis]
        position = tf.range(length)
        return (position >= first) & (position <= tf.minimum(first + size, length))

    columns, rows = covered(draws[:, 0], images.shape[2]), covered(draws[:, 1], images.shape[1])
    square = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
    return tf.where(square, tf.constant(127, tf.uint8), images)
