"""DASO: linear and semantic pseudo-labels, blended class by class."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.pseudo_labels.base import PseudoLabeler, PseudoLabels, from_target
from daso_tf.pseudo_labels.distribution import PseudoLabelDistribution
from daso_tf.pseudo_labels.prototypes import PrototypeClassifier


@keras.saving.register_keras_serializable(package="daso_tf")
class DASOPseudoLabeler(PseudoLabeler):
    """Distribution-aware blend of linear and semantic pseudo-labels, and semantic alignment.

    Linear pseudo-labels lean to the head classes, semantic ones (by similarity to balanced
    prototypes) to the tail. Where the classifier's pseudo-labels already fall on a class too
    often, the semantic one gets more weight: the final target of an image whose linear
    pseudo-label is k' is `(1 - v_k') p + v_k' q`, with `v_k = m_k^(1/T) / max_j m_j^(1/T)` and m
    the pseudo-label distribution in force.

    Args:
        queue_size: Q, labeled features kept for each class, at least 1.
        prototype_temperature: T_proto, above 0.
        distribution_temperature: T_dist, above 0. The paper takes 1.5 on CIFAR-10 where labeled
            and unlabeled images are equally imbalanced, else 0.3.
        distribution_aware: Whether `v` follows the distribution; if not, it is `blend_weight`.
        blend_weight: The fixed weight of the semantic pseudo-label, in [0, 1].
        alignment_weight: Weight of the semantic alignment loss, at least 0.
        pretrain_steps: The first steps, in which pseudo-labels are linear and nothing is aligned.
        distribution_period: Steps between two updates of the pseudo-label distribution.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = DASOPseudoLabeler(pretrain_steps=0, distribution_aware=False, blend_weight=1.0)
    >>> labeler.build([(None, 2), (None, 3)])  # 2 classes, 3 features
    >>> labeler.observe(tf.eye(2, 3), tf.constant([0, 1]))
    >>> labels = labeler(tf.constant([[0.7, 0.3]]), tf.constant([[0.0, 5.0, 0.0]]), step=0)
    >>> int(labels.linear[0]), int(labels.semantic[0]), int(labels.final[0])
    (0, 1, 1)

    Reference:
        Oh, Kim and Kweon, "DASO: Distribution-Aware Semantics-Oriented Pseudo-label for
        Imbalanced Semi-Supervised Learning", CVPR 2022, section 3.
    """

    asks_for = frozenset({"labeled_features"})
    loss_names = ("alignment_loss",)

    def __init__(
        self,
        queue_size: int = 256,
        prototype_temperature: float = 0.05,
        distribution_temperature: float = 1.5,
        distribution_aware: bool = True,
        blend_weight: float = 0.5,
        alignment_weight: float = 1.0,
        pretrain_steps: int = 5000,
        distribution_period: int = 100,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not distribution_temperature > 0:
            raise ValueError(
                f"distribution_temperature must be above 0, not {distribution_temperature}."
            )
        if not 0 <= blend_weight <= 1:
            raise ValueError(f"blend_weight must be in [0, 1], not {blend_weight}.")
        if not alignment_weight >= 0:
            raise ValueError(f"alignment_weight must be at least 0, not {alignment_weight}.")
        if pretrain_steps < 0:
            raise ValueError(f"pretrain_steps must be at least 0, not {pretrain_steps}.")
        self.distribution_temperature = distribution_temperature
        self.distribution_aware = distribution_aware
        self.blend_weight = blend_weight
        self.alignment_weight = alignment_weight
        self.pretrain_steps = pretrain_steps
        self.prototype_classifier = PrototypeClassifier(
            queue_size, prototype_temperature, name="prototype_classifier"
        )
        self.distribution = PseudoLabelDistribution(distribution_period, name="distribution")

    def build(self, input_shape):
        """Makes the memory, from the shapes of logits `(batch, K)` and features `(batch, D)`."""
        logits_shape, _ = input_shape
        self.prototype_classifier.build(input_shape)
        self.distribution.build(logits_shape)
        self.built = True

    def observe(self, features, labels):
        """Appends the labeled features to the queues ("Balanced prototype generation")."""
        self.prototype_classifier.push(features, labels)

    def call(self, linear_target, features, step, positions=None) -> PseudoLabels:
        """Makes the pseudo-labels ("Distribution-aware blending"); see `PseudoLabeler.call`."""
        semantic_target = tf.nn.softmax(self.prototype_classifier(features))
        linear = tf.argmax(linear_target, axis=-1)
        semantic = tf.argmax(semantic_target, axis=-1)

        semantic_weight = tf.gather(self._class_weights(), linear)
        pretraining = self._pretraining(step)
        semantic_weight = tf.where(pretraining, 0.0, semantic_weight)[:, None]
        target = (1.0 - semantic_weight) * linear_target + semantic_weight * semantic_target
        return from_target(
            tf.stop_gradient(target),
            linear=linear,
            semantic=tf.where(pretraining, tf.constant(-1, tf.int64), semantic),
        )

    def auxiliary_losses(self, weak_features, strong_features, step):
        """Computes the semantic alignment loss ("Semantic alignment loss").

        The strong view's distribution over the prototypes shall be the weak view's.
        """
        if not self.alignment_weight:
            return {"alignment_loss": tf.zeros([])}  # and no gradient of nothing
        targets = tf.stop_gradient(tf.nn.softmax(self.prototype_classifier(weak_features)))
        loss = tf.nn.softmax_cross_entropy_with_logits(
            targets, self.prototype_classifier(strong_features)
        )
        weight = tf.where(self._pretraining(step), 0.0, self.alignment_weight)
        return {"alignment_loss": weight * tf.reduce_mean(loss)}

    def update(self, pseudo_labels, step):
        """Counts the final pseudo-labels, all of them, whatever their confidence."""
        self.distribution.count(pseudo_labels.final, step)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "queue_size": self.prototype_classifier.queue_size,
            "prototype_temperature": self.prototype_classifier.temperature,
            "distribution_temperature": self.distribution_temperature,
            "distribution_aware": self.distribution_aware,
            "blend_weight": self.blend_weight,
            "alignment_weight": self.alignment_weight,
            "pretrain_steps": self.pretrain_steps,
            "distribution_period": self.distribution.period,
        }

    def _pretraining(self, step) -> tf.Tensor:
        return tf.cast(step, tf.int64) < self.pretrain_steps

    def _class_weights(self) -> tf.Tensor:
        """The weight of the semantic pseudo-label, by the class of the linear one: v."""
        if self.distribution_aware:
            return self.distribution.tempered(self.distribution_temperature)
        return tf.fill([self.prototype_classifier.num_classes], self.blend_weight)
