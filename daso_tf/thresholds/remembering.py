"""Base class of the thresholds that remember the latest pseudo-label of every unlabeled image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.thresholds.threshold import Threshold


class RememberingThreshold(Threshold):
    """Remembers the latest pseudo-label of every unlabeled image.

    Args:
        num_images: Number of unlabeled images, at least 1.
        confidence: The least confidence of a pseudo-label that is taught, in [0, 1]. Subclasses
            may lower it for some classes.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    asks_for = frozenset({"positions"})

    def __init__(self, num_images: int, confidence: float = 0.95, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_images = checked_whole_number("num_images", num_images, least=1)
        self.confidence = checked_number("confidence", confidence, least=0, most=1)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory; see `Threshold`."""
        self.num_classes = input_shape[-1]
        # K marks an image without a pseudo-label.
        self.labels = self.add_weight(
            name="labels",
            shape=(self.num_images,),
            initializer=keras.initializers.Constant(self.num_classes),
            trainable=False,
            dtype="int32",
        )
        self.built = True

    def counts(self) -> tf.Tensor:
        """Counts the remembered pseudo-labels.

        Returns:
            int32 `(K + 1,)`: the images of each class, then the images without a pseudo-label.
        """
        labels = tf.convert_to_tensor(self.labels)
        # Not tf.math.bincount: its size depends on the labels, and XLA would compile every step.
        return tf.math.unsorted_segment_sum(tf.ones_like(labels), labels, self.num_classes + 1)

    def remember(self, memory: tf.Variable, positions: tf.Tensor, values: tf.Tensor) -> None:
        """Overwrites the entries of the batch's images in a memory, for all replicas together.

        Args:
            memory: A variable with one entry per unlabeled image.
            positions: int `(mu * batch,)`, the positions of the batch's images in it.
            values: `(mu * batch,)`, the new entries.
        """
        positions, values = replicas.gather(positions), replicas.gather(values)
        before = tf.convert_to_tensor(memory)
        memory.assign(tf.tensor_scatter_nd_update(before, positions[:, None], values))

    def checked_positions(self, positions: tf.Tensor | None) -> tf.Tensor:
        """Returns the positions of a batch.

        Raises:
            ValueError: If there are none.
        """
        if positions is None:
            raise ValueError(
                f"{type(self).__name__} needs the positions of the unlabeled images of each batch. "
                "Create the batches by daso_tf.data.training_batches(..., with_positions=True)."
            )
        return positions

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "num_images": self.num_images,
            "confidence": self.confidence,
        }
