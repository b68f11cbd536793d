"""FixMatch's threshold: one confidence for all classes and all times."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.thresholds.threshold import Threshold, checked_fraction


@keras.saving.register_keras_serializable(package="daso_tf")
class FixedThreshold(Threshold):
    """Teaches the pseudo-labels whose confidence reaches a threshold.

    Args:
        confidence: The threshold, in [0, 1].

    Raises:
        ValueError: If it is outside its range.

    Example:

    >>> FixedThreshold(0.9)(tf.constant([[0.95, 0.05], [0.8, 0.2]])).numpy().tolist()
    [1.0, 0.0]

    Reference:
        Sohn et al., "FixMatch", NeurIPS 2020, equation 4.
    """

    def __init__(self, confidence: float = 0.95, **kwargs):
        super().__init__(**kwargs)
        self.confidence = checked_fraction("confidence", confidence)

    def call(self, target, positions=None):
        """Weighs the pseudo-labels; see `Threshold.call`."""
        return tf.cast(tf.reduce_max(target, axis=-1) >= self.confidence, tf.float32)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "confidence": self.confidence}
