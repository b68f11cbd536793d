"""The one place that knows where Keras 2.15 and Keras 3 differ."""

from __future__ import annotations

import keras

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3


def leaky_relu(slope: float, name: str | None = None) -> keras.layers.Layer:
    """Makes a LeakyReLU layer; Keras 3 renamed the argument for its slope."""
    argument = "negative_slope" if KERAS_3 else "alpha"
    return keras.layers.LeakyReLU(name=name, **{argument: slope})


def tf_variable(variable):
    """Returns the `tf.Variable` of a weight; in Keras 3 a weight only holds one."""
    return variable.value if KERAS_3 else variable
