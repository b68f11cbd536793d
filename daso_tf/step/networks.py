"""The parts that a classifier and its moving average are made of."""

from __future__ import annotations

import keras

from daso_tf.platform.keras_versions import scaled_normal


def linear_classifier(units: int, name: str) -> keras.layers.Dense:
    """Makes a linear layer in float32 with the paper's initial weights, Glorot-normal.

    Args:
        units: Its number of outputs.
        name: Its name.
    """
    glorot_normal = scaled_normal(1.0, "fan_avg")
    return keras.layers.Dense(units, kernel_initializer=glorot_normal, name=name, dtype="float32")


def copy_of(encoder: keras.Model, name: str) -> keras.Model:
    """Makes the same architecture again; by way of the config, as every kind of model has one."""
    config = encoder.get_config()
    if "name" in config:
        config["name"] = name
    return type(encoder).from_config(config)


def input_size(encoder: keras.Model) -> int:
    """Returns the side in pixels of the images that the encoder was made for.

    Raises:
        ValueError: If it was not made for square images of one size.
    """
    shape = getattr(encoder, "input_shape", None)
    if not shape or len(shape) != 4 or shape[1] is None or shape[1] != shape[2]:
        raise ValueError(
            f"The encoder's input shape {shape} does not say one side for square images: give "
            "the learner resolution=, the side in pixels."
        )
    return shape[1]


def weights_of(*layers: keras.layers.Layer) -> list[keras.Variable]:
    """Returns all weights and statistics of layers, in order."""
    return [weight for layer in layers for weight in layer.weights]
