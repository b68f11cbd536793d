"""FlexMatch: the less a class is learnt so far, the lower its threshold."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.thresholds.remembering import RememberingThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class FlexMatchThreshold(RememberingThreshold):
    """Teaches a pseudo-label whose confidence reaches its class's share of a threshold.

    How far a class is learnt is told by the number of unlabeled images whose pseudo-label it was
    when they last reached the threshold in full; the class with the most has the threshold in
    full, unless more images than those have never reached it (curriculum pseudo-labeling, with
    the warm-up and the convex mapping x / (2 - x) of the paper).

    Args:
        num_images: How many there are, at least 1.
        confidence: The threshold in full, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> threshold = FlexMatchThreshold(num_images=2, confidence=0.9)
    >>> target = tf.constant([[0.95, 0.05], [0.4, 0.6]])
    >>> threshold(target, positions=tf.range(2)).weights.numpy().tolist()  # nothing learned yet
    [1.0, 1.0]
    >>> threshold(target, positions=tf.range(2)).weights.numpy().tolist()  # class 0 is learned
    [1.0, 1.0]
    >>> threshold.class_thresholds().numpy().tolist()
    [0.8999999761581421, 0.0]

    Reference:
        Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo
        Labeling", NeurIPS 2021, equations 5, 7, 11 and 12.
    """

    def class_thresholds(self) -> tf.Tensor:
        """Returns the confidence that each class's pseudo-labels must reach now, float32 `(K,)`."""
        counts = tf.cast(self.counts(), tf.float32)
        status = counts[:-1] / tf.reduce_max(counts)  # with the never confident ones: warm-up
        return self.confidence * status / (2.0 - status)

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

        # An image keeps its class until it is confident of another one.
        before = tf.gather(tf.convert_to_tensor(self.labels), positions)
        learnt = tf.where(confidence >= self.confidence, labels, before)
        self.remember(self.labels, positions, learnt)
        return Selection(tf.cast(mask, tf.float32))
