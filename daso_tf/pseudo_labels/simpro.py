"""SimPro: estimates the class distribution of the unlabeled images, and trains with its prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_counts, checked_number, checked_whole_number
from daso_tf.platform.epoch_start import epoch_begins
from daso_tf.pseudo_labels.pseudo_labeler import (
    OWN_LOSSES,
    Logits,
    PseudoLabeler,
    PseudoLabels,
    checked_num_classes,
    soft_consistency,
)

_TINY = 1e-12  # avoids the logarithm of 0


@keras.saving.register_keras_serializable(package="daso_tf")
class SimProPseudoLabeler(PseudoLabeler):
    """Pseudo-labels by the estimated class distribution, and losses that include a prior (SimPro).

    Let pi_u be the estimated class distribution of the unlabeled images, and pi_l that of all
    images that are trained on. The pseudo-labels are those of the weak views' logits plus
    `tau * log pi_u`; their whole distributions are taught. Both losses are cross-entropies of the
    logits plus `tau * log pi_l`, of weak and strong views of the labeled images and of the strong
    views of the unlabeled images. So the logits themselves predict as if the classes were
    balanced.

    pi_u and pi_l change at the end of each epoch, by the labels and the taught pseudo-labels of
    the epoch.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        batch_ratio: Whole batches of unlabeled images in all unlabeled images, divided by whole
            batches of labeled images in all labeled images, above 0. The supervised loss is divided
            by it.
        tau: Strength of the priors, at least 0. The paper uses 1 on CIFAR-100 and ImageNet.
        momentum: Weight of the old distributions at the end of an epoch, in [0, 1].
        epoch_steps: Steps of an epoch, at least 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = SimProPseudoLabeler([3, 1], tau=1.0, momentum=0.0, epoch_steps=1)
    >>> labeler.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> _ = labeler.prior_unlabeled.assign([0.1, 0.9])
    >>> labels = labeler(tf.constant([[0.8, 0.2]]), tf.zeros((1, 4)), step=0)
    >>> int(labels.final[0]), round(float(labels.confidence[0]), 3)  # 0.18 of 0.08 + 0.18
    (1, 0.692)

    Reference:
        Du, Han and Huang, "SimPro: A Simple Probabilistic Framework Towards Realistic Long-Tailed
        Semi-Supervised Learning", ICML 2024; the update of the distributions as in the authors'
        implementation.
    """

    asks_for = frozenset({"step_losses", "joint_pass", "strong_labeled"})
    refuses = OWN_LOSSES
    strong_views = 2

    def __init__(
        self,
        labeled_counts: Sequence[int],
        batch_ratio: float = 1.0,
        tau: float = 2.0,
        momentum: float = 0.9,
        epoch_steps: int = 500,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.labeled_counts = checked_counts(labeled_counts)
        self.batch_ratio = checked_number("batch_ratio", batch_ratio, above=0)
        self.tau = checked_number("tau", tau, least=0)
        self.momentum = checked_number("momentum", momentum, least=0, most=1)
        self.epoch_steps = checked_whole_number("epoch_steps", epoch_steps, least=1)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the distributions and the counters; see `PseudoLabeler`."""
        (_, num_classes), _ = input_shape
        checked_num_classes("labeled_counts", self.labeled_counts, num_classes)
        frequencies = np.array(self.labeled_counts) / np.sum(self.labeled_counts)

        def of_classes(name: str, initial: Any) -> tf.Variable:
            initializer = keras.initializers.Constant(initial)
            return self.add_weight(
                name=name, shape=(num_classes,), initializer=initializer, trainable=False
            )

        self.prior_labeled = of_classes("prior_labeled", frequencies)
        self.prior_unlabeled = of_classes("prior_unlabeled", 1.0 / num_classes)
        # Since the start of the epoch.
        self.labels_seen = of_classes("labels_seen", 0.0)
        self.labels_taught = of_classes("labels_taught", 0.0)
        self.epoch = self.add_weight(
            name="epoch", shape=(), initializer="zeros", trainable=False, dtype="int64"
        )
        self.built = True

    def start(self, step: tf.Tensor) -> None:
        """Updates the distributions where an epoch begins.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        begins = epoch_begins(self.epoch, step, self.epoch_steps)
        seen, taught = map(tf.convert_to_tensor, (self.labels_seen, self.labels_taught))
        both, old = seen + taught, 1.0 - self.momentum
        for prior, counted in (
            (self.prior_unlabeled, taught / (tf.reduce_sum(taught) + 1.0)),
            (self.prior_labeled, tf.math.divide_no_nan(both, tf.reduce_sum(both))),
        ):
            prior.assign(tf.where(begins, self.momentum * prior + old * counted, prior))
        for counter, value in ((self.labels_seen, seen), (self.labels_taught, taught)):
            counter.assign(tf.where(begins, tf.zeros_like(value), value))

    def adjustment(self, prior: tf.Tensor) -> tf.Tensor:
        """Returns `tau * log prior`.

        Args:
            prior: float `(K,)`, at least 0.

        Returns:
            float32 `(K,)`.
        """
        return tf.math.log(tf.convert_to_tensor(prior) ** self.tau + _TINY)

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        self.start(step)
        prediction = tf.stop_gradient(linear_target)
        # The prediction is softmax(logits); the result is softmax(logits + adjustment).
        adjusted = prediction * tf.exp(self.adjustment(self.prior_unlabeled))
        target = adjusted / tf.reduce_sum(adjusted, axis=-1, keepdims=True)
        return PseudoLabels.from_target(target, linear=tf.argmax(prediction, axis=-1))

    def step_losses(
        self,
        logits: Logits,
        labels: tf.Tensor,
        pseudo_labels: PseudoLabels,
        weights: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Counts the labels, and computes both losses; see `PseudoLabeler.step_losses`."""
        one_hot = tf.one_hot(labels, len(self.labeled_counts))
        taught = weights[:, None] * pseudo_labels.target
        for counter, rows in ((self.labels_seen, one_hot), (self.labels_taught, taught)):
            counter.assign_add(replicas.total(tf.reduce_sum(rows, axis=0)))

        adjustment = self.adjustment(self.prior_labeled)
        views = [view for view in (logits.labeled, logits.strong_labeled) if view is not None]
        supervised = [
            tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(one_hot, view + adjustment))
            for view in views
        ]
        strong = [view + adjustment for view in logits.strong]
        return {
            "supervised_loss": tf.add_n(supervised) / (len(views) * self.batch_ratio),
            "consistency_loss": soft_consistency(pseudo_labels.target, weights, strong),
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "labeled_counts": list(self.labeled_counts),
            "batch_ratio": self.batch_ratio,
            "tau": self.tau,
            "momentum": self.momentum,
            "epoch_steps": self.epoch_steps,
        }
