"""SAW: higher weights for pseudo-labels of classes that few images are predicted as."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.thresholds.remembering import RememberingThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class SAWWeight(RememberingThreshold):
    """Weighs confident pseudo-labels by the inverse effective number of images of their class.

    Let n_k be the number of unlabeled images whose latest pseudo-label is class k, whatever its
    confidence, and N the number of all unlabeled images. The weight of class k is
    `(1 - beta) / (1 - beta^n_k)` with `beta = 1 - K / N`, scaled so that all weights sum to K. For
    classes that are hardly ever predicted, this smoothed weight is below the plain inverse of n_k.

    The authors set the weights once per epoch; this layer sets them in every step. The authors can
    also weigh the labeled images; `daso_tf.balance.ClassBalancedLoss` does that here.

    Args:
        num_images: N, the number of unlabeled images, at least 1.
        confidence: The least confidence of a pseudo-label that is taught, in [0, 1].
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

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
        """Returns the weight of a confident pseudo-label of each class now, float32 `(K,)`."""
        classes = self.num_classes
        counts = self.counts()[:classes]
        # A class without images has the weight of a class with one. float64, since beta is near 1.
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
        """Weighs the confident pseudo-labels; see `Threshold.call`."""
        positions = self.checked_positions(positions)
        pseudo_labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confident = tf.cast(tf.reduce_max(target, axis=-1) >= self.confidence, tf.float32)
        weights = confident * tf.gather(self.class_weights(), pseudo_labels)

        self.remember(self.labels, positions, pseudo_labels)
        return Selection(weights)
