"""What thresholds have in common that remember a pseudo-label of every unlabeled image."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.thresholds.threshold import Threshold


class RememberingThreshold(Threshold):
    """A threshold that goes by which classes the unlabeled images were last given.

    Args:
        num_images: How many unlabeled images there are, at least 1.
        confidence: The threshold in full, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.
    """

    asks_for = frozenset({"positions"})

    def __init__(self, num_images: int, confidence: float = 0.95, **kwargs):
        super().__init__(**kwargs)
        self.num_images = checked_whole_number("num_images", num_images, least=1)
        self.confidence = checked_number("confidence", confidence, least=0, most=1)

    def build(self, input_shape):
        """Makes the memory, from the shape of the targets `(batch, K)`."""
        self.num_classes = input_shape[-1]
        # K stands for an image that has no class yet.
        self.labels = self.add_weight(
            name="labels",
            shape=(self.num_images,),
            initializer=keras.initializers.Constant(self.num_classes),
            trainable=False,
            dtype="int32",
        )
        self.built = True

    def counts(self) -> tf.Tensor:
        """Returns the images of each class, and last those that have none yet, int32 `(K + 1,)`."""
        bins = self.num_classes + 1
        return tf.math.bincount(tf.convert_to_tensor(self.labels), minlength=bins, maxlength=bins)

    def remember(self, memory: tf.Variable, positions: tf.Tensor, values: tf.Tensor) -> None:
        """Sets what is remembered of the images of a batch, those of all replicas.

        Args:
            memory: A variable with an entry for every unlabeled image.
            positions: int `(batch,)`, which of them the batch holds.
            values: `(batch,)`, what of each of these.
        """
        positions, values = replicas.gather(positions), replicas.gather(values)
        before = tf.convert_to_tensor(memory)
        memory.assign(tf.tensor_scatter_nd_update(before, positions[:, None], values))

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "num_images": self.num_images,
            "confidence": self.confidence,
        }
