"""The learners' own pseudo-labels: what the linear classifier says."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.pseudo_labels.base import PseudoLabeler, PseudoLabels, from_target


@keras.saving.register_keras_serializable(package="daso_tf")
class LinearPseudoLabeler(PseudoLabeler):
    """Pseudo-labels that are the learner's prediction, as it is.

    Example:

    >>> labels = LinearPseudoLabeler()(tf.constant([[0.9, 0.1]]), tf.zeros((1, 4)), step=0)
    >>> int(labels.final[0]), round(float(labels.confidence[0]), 3)
    (0, 0.9)

    Reference:
        Sohn et al., "FixMatch", NeurIPS 2020, section 2.
    """

    def call(self, linear_target, features, step, positions=None) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        target = tf.stop_gradient(linear_target)
        linear = tf.argmax(target, axis=-1)
        return from_target(target, linear=linear, semantic=-tf.ones_like(linear))
