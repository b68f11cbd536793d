"""The one place that knows where Keras 2.15 and Keras 3 differ."""

from __future__ import annotations

import keras

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3


def leaky_relu(slope: float, name: str | None = None) -> keras.layers.Layer:
    """Makes a LeakyReLU layer; Keras 3 renamed the argument for its slope."""
    argument = "negative_slope" if KERAS_3 else "alpha"
    return keras.layers.LeakyReLU(name=name, **{argument: slope})


def write_archive(archive: keras.export.ExportArchive, directory: str) -> None:
    """Writes an export without a word; Keras 3 prints its signatures unless told not to."""
    archive.write_out(directory, **({"verbose": False} if KERAS_3 else {}))
