"""ADELLO: logit adjustment that follows the estimated prior, and distillation of unsure images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_counts, checked_number, checked_whole_number
from daso_tf.pseudo_labels.pseudo_labeler import (
    OWN_LOSSES,
    Logits,
    PseudoLabeler,
    PseudoLabels,
    checked_num_classes,
    soft_consistency,
)

_TINY = 1e-9  # avoids the logarithm of 0


@keras.saving.register_keras_serializable(package="daso_tf")
class ADELLOPseudoLabeler(PseudoLabeler):
    """FlexDA: losses adjusted by the estimated prior; and distillation of what is not confident.

    Let p be the class distribution of the labeled images and q the moving average of the mean
    prediction for unlabeled images. The target prior is Q, `q^alpha` scaled to sum to 1. During the
    run, alpha falls from 1 to `alpha_min`, so the classifier ends almost balanced. The supervised
    loss has `log(p / Q)` added to its logits, and the consistency loss `log(q / Q)`.

    From `distill_after` on, images that are not confident are taught as well, with the whole
    distribution of the weak view.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        total_steps: Steps of the whole run, at least 1.
        alpha_min: alpha at the end of the run, in [0, 1].
        power: alpha is `1 - (1 - alpha_min) * (step / total_steps)^power`, above 0.
        momentum: Momentum of q, in [0, 1).
        distill_after: Steps before images that are not confident are taught, at least 0. The
            authors use 0 on STL-10.
        published_temperature: Whether the temperature of the distillation is
            `exp(KL(uniform || q))` at its first step, as in the paper. In the authors' released
            configurations it is 1.
        num_unlabeled: Unlabeled images that are no labeled ones, at least 1. If it is given, q
            leaves out the images at later positions. None: q is of all images, as released.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = ADELLOPseudoLabeler([3, 1], total_steps=10)
    >>> [round(float(labeler.alpha_at(step)), 3) for step in (0, 5, 10)]
    [1.0, 0.775, 0.1]

    Reference:
        Sanchez Aimar et al., "Flexible Distribution Alignment: Towards Long-tailed Semi-supervised
        Learning with Proper Calibration", ECCV 2024.
    """

    asks_for = frozenset({"step_losses", "joint_pass"})
    refuses = OWN_LOSSES
    loss_names = ("distillation_loss",)

    def __init__(
        self,
        labeled_counts: Sequence[int],
        total_steps: int,
        alpha_min: float = 0.1,
        power: float = 2.0,
        momentum: float = 0.999,
        distill_after: int = 50_000,
        published_temperature: bool = False,
        num_unlabeled: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.labeled_counts = checked_counts(labeled_counts)
        self.total_steps = checked_whole_number("total_steps", total_steps, least=1)
        self.alpha_min = checked_number("alpha_min", alpha_min, least=0, most=1)
        self.power = checked_number("power", power, above=0)
        self.momentum = checked_number("momentum", momentum, least=0, below=1)
        self.distill_after = checked_whole_number("distill_after", distill_after, least=0)
        self.published_temperature = bool(published_temperature)
        if num_unlabeled is not None:
            num_unlabeled = checked_whole_number("num_unlabeled", num_unlabeled, least=1)
            self.asks_for = self.asks_for | {"positions"}  # type: ignore[misc]
        self.num_unlabeled = num_unlabeled

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the prior of the unlabeled images and the temperature; see `PseudoLabeler`."""
        (_, num_classes), _ = input_shape
        checked_num_classes("labeled_counts", self.labeled_counts, num_classes)
        self.prior = self.add_weight(
            name="prior",
            shape=(num_classes,),
            initializer=keras.initializers.Constant(1.0 / num_classes),
            trainable=False,
        )
        # 0 until the distillation begins.
        self.temperature = self.add_weight(
            name="temperature", shape=(), initializer="zeros", trainable=False
        )
        self.built = True

    def alpha_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns alpha in a step, float32 scalar in [`alpha_min`, 1].

        Args:
            step: int scalar, the number of steps done before this one.
        """
        done = tf.minimum(tf.cast(step, tf.float32) / self.total_steps, 1.0)
        return 1.0 - (1.0 - self.alpha_min) * done**self.power

    def adjustments(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the losses add to the logits of labeled and of unlabeled images.

        Args:
            step: int scalar, the number of steps done before this one.

        Returns:
            float32 `(K,)` each.
        """
        prior = tf.convert_to_tensor(self.prior)
        flexed = prior ** self.alpha_at(step)
        log_target = tf.math.log(flexed / tf.reduce_sum(flexed) + _TINY)
        labeled = np.array(self.labeled_counts) / np.sum(self.labeled_counts)
        log_labeled = tf.constant(np.log(labeled + _TINY), prior.dtype)
        return log_labeled - log_target, tf.math.log(prior + _TINY) - log_target

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels, which are not adjusted; see `PseudoLabeler.call`."""
        target = tf.stop_gradient(linear_target)
        return PseudoLabels.from_target(target, linear=tf.argmax(target, axis=-1))

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
        """Computes the three losses and updates the prior; see `PseudoLabeler.step_losses`."""
        for_labeled, for_unlabeled = self.adjustments(step)  # by the prior before this step
        self._update(pseudo_labels.target, step, positions, belongs)

        supervised = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels, logits.labeled + for_labeled
        )
        strong = [view + for_unlabeled for view in logits.strong]
        hard = tf.one_hot(pseudo_labels.final, len(self.labeled_counts))
        distills = tf.cast(tf.cast(step, tf.int64) >= self.distill_after, tf.float32)
        unsure = distills * (1.0 - weights)
        if belongs is not None:
            unsure *= belongs
        temperature = tf.maximum(tf.convert_to_tensor(self.temperature), 1.0)
        soft = pseudo_labels.target ** (1.0 / temperature)
        soft /= tf.reduce_sum(soft, axis=-1, keepdims=True)
        softened = [view / temperature for view in strong]
        return {
            "supervised_loss": tf.reduce_mean(supervised),
            "consistency_loss": soft_consistency(hard, weights, strong),
            "distillation_loss": soft_consistency(soft, unsure, softened),
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "labeled_counts": list(self.labeled_counts),
            "total_steps": self.total_steps,
            "alpha_min": self.alpha_min,
            "power": self.power,
            "momentum": self.momentum,
            "distill_after": self.distill_after,
            "published_temperature": self.published_temperature,
            "num_unlabeled": self.num_unlabeled,
        }

    def _update(
        self,
        target: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None,
        belongs: tf.Tensor | None,
    ) -> None:
        """Moves the prior to the mean prediction; sets the temperature when it is first needed."""
        counted = tf.ones(tf.shape(target)[:1], target.dtype) if belongs is None else belongs
        if self.num_unlabeled is not None:
            if positions is None:
                raise ValueError(
                    "ADELLO with num_unlabeled needs the positions of the unlabeled images of each "
                    "batch. Create the batches by training_batches(..., with_positions=True)."
                )
            counted *= tf.cast(positions < self.num_unlabeled, target.dtype)
        total, count = replicas.total(
            [tf.reduce_sum(counted[:, None] * target, axis=0), tf.reduce_sum(counted)]
        )
        prior = tf.convert_to_tensor(self.prior)
        mean = tf.where(count > 0, tf.math.divide_no_nan(total, count), prior)
        prior = self.momentum * prior + (1.0 - self.momentum) * mean
        self.prior.assign(tf.where(count > 0, prior, self.prior))

        first = 1.0
        if self.published_temperature:  # exp(KL(uniform || prior))
            share = 1.0 / len(self.labeled_counts)
            first = tf.exp(tf.reduce_sum(share * tf.math.log(share / (prior + _TINY))))
        starts = (tf.cast(step, tf.int64) >= self.distill_after) & (self.temperature == 0.0)
        self.temperature.assign(tf.where(starts, first, self.temperature))
