"""The energy of the logits: high where no class is likely."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.open_set.open_set import OpenSet


@keras.saving.register_keras_serializable(package="daso_tf")
class Energy(OpenSet):
    """Scores images by the energy of their logits, `-log sum_k exp(logit_k)`.

    Args:
        rejected: Share of the held-out images of the classes that lies above the limit, above 0
            and below 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `rejected` is outside its range.

    Example:

    >>> energy = Energy()
    >>> energy.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> scores = energy(tf.constant([[9.0, 0.0], [1.0, 0.0]]), tf.zeros((2, 4)))
    >>> [round(float(score), 2) for score in scores]
    [-9.0, -1.31]

    Reference:
        Liu, Wang, Owens and Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020,
        equation 4.
    """

    def call(self, logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Scores images; see `OpenSet.call`."""
        logits = tf.stop_gradient(tf.cast(logits, tf.float32))
        # Not `tf.reduce_logsumexp`: LiteRT lacks one of its operations.
        largest = tf.reduce_max(logits, axis=-1, keepdims=True)
        total = tf.reduce_sum(tf.exp(logits - largest), axis=-1)
        return -(largest[:, 0] + tf.math.log(total))
