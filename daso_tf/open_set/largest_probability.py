"""The largest probability: low where no class is likely."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.open_set.open_set import OpenSet


@keras.saving.register_keras_serializable(package="daso_tf")
class LargestProbability(OpenSet):
    """Scores images by 1 minus the probability of their most probable class.

    Args:
        rejected: Share of the held-out images of the classes that lies above the limit, above 0
            and below 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `rejected` is outside its range.

    Example:

    >>> score = LargestProbability()
    >>> score.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> scores = score(tf.constant([[9.0, 0.0], [0.0, 0.0]]), tf.zeros((2, 4)))
    >>> [round(float(score), 2) for score in scores]
    [0.0, 0.5]

    Reference:
        Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks", ICLR 2017, section 2.
    """

    def call(self, logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Scores images; see `OpenSet.call`."""
        logits = tf.stop_gradient(tf.cast(logits, tf.float32))
        return 1.0 - tf.reduce_max(tf.nn.softmax(logits), axis=-1)
