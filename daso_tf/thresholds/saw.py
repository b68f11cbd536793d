"""SAW: the fewer images are taken for a class, the more a pseudo-label of that class weighs."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.thresholds.remembering import RememberingThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class SAWWeight(RememberingThreshold):
    """Weighs confident pseudo-labels by the effective number of images taken for their class.

    With `n_k` images whose pseudo-label was class k when they were seen last, whatever its
    confidence, and N images in all, class k weighs `(1 - beta) / (1 - beta^n_k)`, scaled so that
    all weights sum to K, with `beta = 1 - K / N`. This stays below the plain inverse of `n_k` for
    classes that hardly any image is taken for, which is what makes it smooth.

    The authors set the weights once an epoch; here they follow in every step. That they can weigh
    the labeled images likewise is a supervised loss here: `ClassBalancedLoss`.

    Args:
        num_images: N, how many unlabeled images there are, at least 1.
        confidence: Pseudo-labels of less confidence are not taught, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> weight = SAWWeight(num_images=4, confidence=0.7)
    >>> target = tf.constant([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.2, 0.8]])
    >>> weight(target, positions=tf.range(4)).weights.numpy().tolist()  # all counts are 0
    [1.0, 1.0, 0.0, 1.0]
    >>> weights = weight(target, positions=tf.range(4)).weights  # counts are 3 and 1
    >>> [round(float(value), 3) for value in weights]
    [0.727, 0.727, 0.0, 1.273]

    Reference:
        Lai et al., "Smoothed Adaptive Weighting for Imbalanced Semi-Supervised Learning: Improve
        Reliability Against Unknown Distribution Data", ICML 2022; beta as in the authors'
        implementation.
    """

    def class_weights(self) -> tf.Tensor:
        """Returns what a confident pseudo-label of each class weighs now, float32 `(K,)`."""
        classes = self.num_classes
        counts = self.counts()[:classes]
        # A class of no image weighs like one of one. In float64, as beta is close to 1.
        counts = tf.maximum(tf.cast(counts, tf.float64), 1.0)
        beta = max(0.0, 1.0 - classes / self.num_images)
        weights = 1.0 / (1.0 - beta**counts)
        return tf.cast(weights / tf.reduce_mean(weights), tf.float32)

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
    ) -> Selection:
        """Weighs the pseudo-labels; see `Threshold.call`."""
        labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confident = tf.cast(tf.reduce_max(target, axis=-1) >= self.confidence, tf.float32)
        weights = confident * tf.gather(self.class_weights(), labels)

        self.remember(self.labels, positions, labels)
        return Selection(weights)
