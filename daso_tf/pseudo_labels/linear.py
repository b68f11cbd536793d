"""The learners' own pseudo-labels: the predictions of the linear classifier."""

from __future__ import annotations

from types import MappingProxyType

import keras
import tensorflow as tf

from daso_tf.pseudo_labels.pseudo_labeler import PseudoLabeler, PseudoLabels


@keras.saving.register_keras_serializable(package="daso_tf")
class LinearPseudoLabeler(PseudoLabeler):
    """Uses the learner's predictions unchanged, as plain FixMatch does.

    Args:
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Example:

    >>> labels = LinearPseudoLabeler()(tf.constant([[0.9, 0.1]]), tf.zeros((1, 4)), step=0)
    >>> int(labels.final[0]), round(float(labels.confidence[0]), 3)
    (0, 0.9)

    Reference:
        Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
        Confidence", NeurIPS 2020, section 2.
    """

    refuses = MappingProxyType({})

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        target = tf.stop_gradient(linear_target)
        return PseudoLabels.from_target(target, linear=tf.argmax(target, axis=-1))
