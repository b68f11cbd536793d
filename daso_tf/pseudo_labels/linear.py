"""FixMatch's own pseudo-labels: what the linear classifier says."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.pseudo_labels.base import PseudoLabeler, PseudoLabels, from_target


@keras.saving.register_keras_serializable(package="daso_tf")
class LinearPseudoLabeler(PseudoLabeler):
    """Pseudo-labels from the softmax of the classifier on the weak view.

    Example:

    >>> labels = LinearPseudoLabeler()(tf.constant([[2.0, 0.0]]), tf.zeros((1, 4)), step=0)
    >>> int(labels.final[0]), round(float(labels.confidence[0]), 3)
    (0, 0.881)

    Reference:
        Sohn et al., "FixMatch", NeurIPS 2020, section 2.
    """

    def call(self, weak_logits, weak_features, step) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        target = tf.stop_gradient(tf.nn.softmax(weak_logits))
        linear = tf.argmax(target, axis=-1)
        return from_target(target, linear=linear, semantic=-tf.ones_like(linear))
