"""ADSH: selects the same fraction of the images of every class as of the head class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_counts
from daso_tf.thresholds.remembering import RememberingThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class ADSHThreshold(RememberingThreshold):
    """Teaches the most confident images of each class, the same fraction as of the head class.

    The head class, which has the most labeled images, has the threshold `confidence`. The fraction
    of its images that reach it sets the thresholds of the other classes: in each of them, the same
    fraction of the images reaches the threshold. A class of which no image would be taught also has
    the threshold `confidence`. At the start of training, this holds for all classes.

    The authors predict all unlabeled images once per epoch and then set the thresholds. This layer
    remembers the latest prediction for every image and sets the thresholds in every step.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        num_images: Number of unlabeled images, at least 1.
        confidence: The threshold of the head class, in [0, 1].
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> threshold = ADSHThreshold(labeled_counts=[9, 1], num_images=4, confidence=0.9)
    >>> target = tf.constant([[0.95, 0.05], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
    >>> threshold(target, positions=tf.range(4)).weights.numpy().tolist()
    [1.0, 0.0, 0.0, 0.0]
    >>> threshold(target, positions=tf.range(4)).weights.numpy().tolist()  # half of each class
    [1.0, 0.0, 0.0, 1.0]

    Reference:
        Guo and Li, "Class-Imbalanced Semi-Supervised Learning with Adaptive Thresholding", ICML
        2022.
    """

    def __init__(
        self,
        labeled_counts: Sequence[int],
        num_images: int,
        confidence: float = 0.95,
        **kwargs: Any,
    ):
        super().__init__(num_images, confidence, **kwargs)
        self.labeled_counts = checked_counts(labeled_counts)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory; see `Threshold`."""
        if len(self.labeled_counts) != input_shape[-1]:
            raise ValueError(
                f"labeled_counts must have one number for each of the {input_shape[-1]} classes, "
                f"not {len(self.labeled_counts)}."
            )
        super().build(input_shape)
        self.confidences = self.add_weight(
            name="confidences", shape=(self.num_images,), initializer="zeros", trainable=False
        )

    def class_thresholds(self) -> tf.Tensor:
        """Returns the least confidence at which each class is taught now, float32 `(K,)`."""
        labels, confidences = map(tf.convert_to_tensor, (self.labels, self.confidences))
        head = self.labeled_counts.index(max(self.labeled_counts))
        counts = tf.cast(self.counts()[:-1], tf.int64)
        confident = (labels == head) & (confidences >= self.confidence)
        confident = tf.reduce_sum(tf.cast(confident, tf.int64))

        # Rounded up, so that at least one image of a small class is taught.
        taught = -(-counts * confident // tf.maximum(counts[head], 1))
        # Sorts all images by class, then from the most to the least confident. The key is exact:
        # a float64 holds twice the class minus a float32 in [1 / K, 1].
        ordered = tf.sort(2.0 * tf.cast(labels, tf.float64) - tf.cast(confidences, tf.float64))
        last_taught = tf.maximum(tf.cumsum(counts, exclusive=True) + taught - 1, 0)
        classes = tf.range(self.num_classes)
        reached = 2.0 * tf.cast(classes, tf.float64) - tf.gather(ordered, last_taught)
        unchanged = (classes == head) | (taught == 0)
        return tf.where(unchanged, self.confidence, tf.cast(reached, tf.float32))

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
    ) -> Selection:
        """Selects by class thresholds; see `Threshold.call`."""
        positions = self.checked_positions(positions)
        pseudo_labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confidence = tf.reduce_max(target, axis=-1)
        taught = confidence >= tf.gather(self.class_thresholds(), pseudo_labels)
        self.remember(self.labels, positions, pseudo_labels)
        self.remember(self.confidences, positions, confidence)
        return Selection(tf.cast(taught, tf.float32))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "labeled_counts": self.labeled_counts,
        }
