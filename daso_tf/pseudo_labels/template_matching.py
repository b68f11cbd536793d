"""USADTM: pseudo-labels by the class template that two distance measures agree on."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_whole_number
from daso_tf.pseudo_labels.prototypes import PrototypeClassifier
from daso_tf.pseudo_labels.pseudo_labeler import PseudoLabeler, PseudoLabels


@keras.saving.register_keras_serializable(package="daso_tf")
class TemplateMatchingPseudoLabeler(PseudoLabeler):
    """Pseudo-labels by the nearest template, the mean labeled feature of a class.

    The pseudo-label is the class whose template has the largest cosine similarity to the image's
    feature. The confidence is this similarity, or 0 if another template has the smallest Euclidean
    distance.

    Args:
        queue_size: Labeled features kept for each class, at least 1.
        pretrain_steps: Number of first steps in which all confidences are 0, at least 0.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

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
        for Semi-Supervised Learning", NeurIPS 2020, "Deformable template matching". DASO's
        authors, whose comparison this follows, keep as many features as a class has labeled images.
    """

    asks_for = frozenset({"labeled_features"})

    refuses = MappingProxyType({})

    def __init__(
        self, queue_size: int | Sequence[int] = 256, pretrain_steps: int = 500, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.pretrain_steps = checked_whole_number("pretrain_steps", pretrain_steps, least=0)
        self.templates = PrototypeClassifier(queue_size, temperature=1.0, name="templates")

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the queues; see `PseudoLabeler`."""
        self.templates.build(input_shape)
        self.built = True

    def observe(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        """Appends the labeled features to the queues; see `PseudoLabeler.observe`."""
        self.templates.push(features, labels)

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        features = tf.stop_gradient(tf.cast(features, tf.float32))
        similarity = self.templates(features)
        nearest = tf.argmax(similarity, axis=-1)
        agreed = tf.equal(nearest, tf.argmin(self.distances(features), axis=-1))
        matched = agreed & (tf.cast(step, tf.int64) >= self.pretrain_steps)
        confidence = tf.where(matched, tf.maximum(tf.reduce_max(similarity, axis=-1), 0.0), 0.0)
        pseudo_labels = PseudoLabels.from_target(
            tf.one_hot(nearest, self.templates.num_classes),
            linear=tf.argmax(linear_target, axis=-1),
            semantic=nearest,
        )
        return pseudo_labels._replace(confidence=confidence)

    def distances(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the Euclidean distance to each template.

        Args:
            features: float32 `(batch, D)`.

        Returns:
            float32 `(batch, K)`.
        """
        return tf.norm(features[:, None, :] - self.templates.prototypes()[None, :, :], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "queue_size": self.templates.queue_size,
            "pretrain_steps": self.pretrain_steps,
        }
