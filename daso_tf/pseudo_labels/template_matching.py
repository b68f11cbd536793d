"""USADTM's pseudo-labels: the class whose template is nearest by two measures."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.pseudo_labels.base import PseudoLabeler, PseudoLabels, from_target
from daso_tf.pseudo_labels.prototypes import PrototypeClassifier


@keras.saving.register_keras_serializable(package="daso_tf")
class TemplateMatchingPseudoLabeler(PseudoLabeler):
    """Pseudo-labels by the nearest template: a class's mean labeled feature.

    The class is the one whose template has the largest cosine similarity, and the confidence that
    similarity; it is 0 where another template is nearer by Euclidean distance.

    Args:
        queue_size: Labeled features kept for each class, at least 1.
        pretrain_steps: The first steps, in which every confidence is 0.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = TemplateMatchingPseudoLabeler(pretrain_steps=0)
    >>> labeler.build([(None, 2), (None, 3)])  # 2 classes, 3 features
    >>> labeler.observe(tf.eye(2, 3), tf.constant([0, 1]))
    >>> labels = labeler(tf.constant([[0.7, 0.3]]), tf.constant([[0.0, 2.0, 0.0]]), step=0)
    >>> int(labels.final[0]), float(labels.confidence[0])
    (1, 1.0)

    Reference:
        Han, Gao, Yuan and Wang, "Unsupervised Semantic Aggregation and Deformable Template Matching
        for Semi-Supervised Learning", NeurIPS 2020, "Deformable template matching". The authors of
        DASO, whose comparison this follows, keep as many features as the class has labeled images.
    """

    asks_for = frozenset({"labeled_features"})

    def __init__(self, queue_size: int = 256, pretrain_steps: int = 500, **kwargs):
        super().__init__(**kwargs)
        if pretrain_steps < 0:
            raise ValueError(f"pretrain_steps must be at least 0, not {pretrain_steps}.")
        self.pretrain_steps = pretrain_steps
        self.templates = PrototypeClassifier(queue_size, temperature=1.0, name="templates")

    def build(self, input_shape):
        """Makes the memory, from the shapes of logits `(batch, K)` and features `(batch, D)`."""
        self.templates.build(input_shape)
        self.built = True

    def observe(self, features, labels):
        """Appends the labeled features to the queues."""
        self.templates.push(features, labels)

    def call(self, linear_target, features, step, positions=None) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        features = tf.stop_gradient(tf.cast(features, tf.float32))
        similarity = self.templates(features)
        nearest = tf.argmax(similarity, axis=-1)
        differences = features[:, None, :] - self.templates.prototypes()[None, :, :]
        agreed = tf.equal(nearest, tf.argmin(tf.norm(differences, axis=-1), axis=-1))
        matched = agreed & (tf.cast(step, tf.int64) >= self.pretrain_steps)
        confidence = tf.where(matched, tf.maximum(tf.reduce_max(similarity, axis=-1), 0.0), 0.0)
        pseudo_labels = from_target(
            tf.one_hot(nearest, self.templates.num_classes),
            linear=tf.argmax(linear_target, axis=-1),
            semantic=nearest,
        )
        return pseudo_labels._replace(confidence=confidence)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "queue_size": self.templates.queue_size,
            "pretrain_steps": self.pretrain_steps,
        }
