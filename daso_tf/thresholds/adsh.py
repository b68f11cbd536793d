"""ADSH: from every class the same share of images is taught, the share that the head class has."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_counts
from daso_tf.thresholds.remembering import RememberingThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class ADSHThreshold(RememberingThreshold):
    """Teaches of every class the most confident images, the same share as of the head class.

    The head class, that with the most labeled images, has the threshold in full. The threshold of
    another class is what the same share of its images reaches, however confident they are. A class
    of which nothing would be taught, as before the head class is confident of any image, has the
    threshold in full, too.

    The authors predict all unlabeled images anew once an epoch, and then set the thresholds. Here
    the last prediction of every image is remembered, and the thresholds follow in every step.

    Args:
        labeled_counts: Labeled images of each class, K numbers.
        num_images: How many unlabeled images there are, at least 1.
        confidence: The threshold in full, in [0, 1].

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
        self, labeled_counts: Sequence[int], num_images: int, confidence: float = 0.95, **kwargs
    ):
        super().__init__(num_images, confidence, **kwargs)
        self.labeled_counts = checked_counts(labeled_counts)

    def build(self, input_shape):
        """Makes the memory, from the shape of the targets `(batch, K)`."""
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
        """Returns the confidence that each class's pseudo-labels must reach now, float32 `(K,)`."""
        labels, confidences = map(tf.convert_to_tensor, (self.labels, self.confidences))
        head = self.labeled_counts.index(max(self.labeled_counts))
        counts = tf.cast(self.counts()[:-1], tf.int64)
        confident = (labels == head) & (confidences >= self.confidence)
        confident = tf.reduce_sum(tf.cast(confident, tf.int64))

        # The share of the head class, rounded up so that one image of a small class counts.
        taught = -(-counts * confident // tf.maximum(counts[head], 1))
        # One class after the other, each from its most to its least confident image; exact, as
        # float64 has room for twice the class beside a float32 in [1 / K, 1].
        ordered = tf.sort(2.0 * tf.cast(labels, tf.float64) - tf.cast(confidences, tf.float64))
        last_taught = tf.maximum(tf.cumsum(counts, exclusive=True) + taught - 1, 0)
        classes = tf.range(self.num_classes)
        reached = 2.0 * tf.cast(classes, tf.float64) - tf.gather(ordered, last_taught)
        in_full = (classes == head) | (taught == 0)
        return tf.where(in_full, self.confidence, tf.cast(reached, tf.float32))

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
    ) -> Selection:
        """Weighs the pseudo-labels; see `Threshold.call`."""
        labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confidence = tf.reduce_max(target, axis=-1)
        mask = confidence >= tf.gather(self.class_thresholds(), labels)
        self.remember(self.labels, positions, labels)
        self.remember(self.confidences, positions, confidence)
        return Selection(tf.cast(mask, tf.float32))

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "labeled_counts": self.labeled_counts,
        }
