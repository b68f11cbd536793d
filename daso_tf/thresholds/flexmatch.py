"""FlexMatch: lower thresholds for classes that are not learned well yet."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.thresholds.remembering import RememberingThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class FlexMatchThreshold(RememberingThreshold):
    """Teaches pseudo-labels that reach the threshold of their class (curriculum pseudo-labeling).

    The learning status of a class is the number of unlabeled images that had it as pseudo-label
    when they last reached `confidence`. It is divided by the largest status of all classes
    or, if it is larger, by the number of images that never reached `confidence` (the warm-up of the
    paper). With this ratio x, the threshold of the class is `confidence * x / (2 - x)`.

    Args:
        num_images: Number of unlabeled images, at least 1.
        confidence: The highest threshold of a class, in [0, 1].
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> threshold = FlexMatchThreshold(num_images=2, confidence=0.9)
    >>> target = tf.constant([[0.95, 0.05], [0.4, 0.6]])
    >>> threshold(target, positions=tf.range(2)).weights.numpy().tolist()  # nothing learned yet
    [1.0, 1.0]
    >>> threshold(target, positions=tf.range(2)).weights.numpy().tolist()  # class 0 is learned
    [1.0, 1.0]
    >>> [round(float(value), 3) for value in threshold.class_thresholds()]
    [0.9, 0.0]

    Reference:
        Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo
        Labeling", NeurIPS 2021, equations 5, 7, 11 and 12.
    """

    def class_thresholds(self) -> tf.Tensor:
        """Returns the least confidence at which each class is taught now, float32 `(K,)`."""
        counts = tf.cast(self.counts(), tf.float32)
        status = counts[:-1] / tf.reduce_max(counts)  # the last count is the warm-up's
        return self.confidence * status / (2.0 - status)

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        step: tf.Tensor | None = None,
    ) -> Selection:
        """Selects by class thresholds; see `Threshold.call`."""
        positions = self.checked_positions(positions)
        pseudo_labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confidence = tf.reduce_max(target, axis=-1)
        taught = confidence >= tf.gather(self.class_thresholds(), pseudo_labels)

        # An image keeps its class until it is confident of another one. Only confident rows are
        # written: another row of the same image must not restore the old class.
        self.remember(self.labels, positions, pseudo_labels, written=confidence >= self.confidence)
        return Selection(tf.cast(taught, tf.float32))
