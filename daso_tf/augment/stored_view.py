"""Takes a view that is stored instead of making one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform import draws
from daso_tf.platform.checks import checked_whole_number


@keras.saving.register_keras_serializable(package="daso_tf")
class StoredView(keras.layers.Layer):
    """Chooses one of the stored views of each image, where other layers augment pixels.

    Images are rows of a feature bank (`daso_tf.data.Rows`). The first view of a row is the present
    one, that which the encoder gets; this layer puts the chosen view in its place. So a strong view
    can be taken of what a weak one was taken of.

    Args:
        first: Number of the first view to choose from, at least 1.
        count: How many views there are to choose from, at least 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> rows = tf.constant([[[0.0], [1.0], [2.0]]])  # one image: its plain view and two others
    >>> weak = StoredView(first=1, count=1)
    >>> weak(rows, seed=[0, 1]).numpy().tolist()
    [[[1.0], [1.0], [2.0]]]
    """

    def __init__(self, first: int = 1, count: int = 1, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)  # the rows stay float16
        self.first = checked_whole_number("first", first, least=1)
        self.count = checked_whole_number("count", count, least=1)

    def call(self, rows: tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Puts a stored view of each image first.

        Args:
            rows: float `(batch, views, D)`.
            seed: Two integers that determine the choice.

        Returns:
            The rows, with another first view.
        """
        draw = draws.uniform(seed, draws.STORED_VIEW, tf.shape(rows)[0], draws=1)
        chosen = tf.gather(rows, self.first + draws.below(self.count, draw), axis=1, batch_dims=1)
        return tf.concat([chosen, rows[:, 1:]], axis=1)

    def build(self, input_shape: Any) -> None:
        """Has nothing to create."""
        self.built = True

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the rows, which does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "first": self.first, "count": self.count}
