"""ReMixMatch: MixMatch with strong views, distribution alignment and a rotation loss."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from daso_tf.augment import RandAugment, resize
from daso_tf.balance.balanced_head import Features
from daso_tf.learners import mixing
from daso_tf.platform import draws, replicas
from daso_tf.platform.checks import checked_number
from daso_tf.pseudo_labels import CDMADPseudoLabeler, LinearPseudoLabeler, PseudoLabeler
from daso_tf.pseudo_labels.cdmad import bounded_cross_entropy
from daso_tf.step import compatibility, known_images, losses
from daso_tf.step.learner import NO_JOINT_PASS, NO_MARGINS, NO_THRESHOLD, Learner
from daso_tf.step.outcome import StepOutcome


class ReMixMatchViews(NamedTuple):
    """The views of a ReMixMatch step, as the encoder takes them, and how they are mixed.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        weak: float `(mu * batch, resolution, resolution, 3)`, weak views of the unlabeled images.
        strong: float `(mu * batch, resolution, resolution, 3)`, strong views of the same images.
        second_strong: float `(mu * batch, resolution, resolution, 3)`, other strong views of the
            same images.
        turns: int `(mu * batch,)`, how many quarter turns each strong view is rotated, 0 to 3.
        mixup: The `MixUp` of the first four, in this order.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor
    second_strong: tf.Tensor
    turns: tf.Tensor
    mixup: mixing.MixUp


@keras.saving.register_keras_serializable(package="daso_tf")
class ReMixMatch(Learner):
    """ReMixMatch: MixMatch with aligned predictions, strong views and a rotation loss.

    Args:
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; by default a
            `LinearPseudoLabeler`, which leaves the predictions as they are.
        distribution_alignment: A `daso_tf.pseudo_labels.DistributionAlignment`, which scales the
            predictions of the weak views before they are sharpened; None for none. The paper has
            it; DASO's comparison only where labeled and unlabeled images have the same imbalance.
        strong: Layer that makes strong views of weak ones, called as `strong(images, seed=...)`; by
            default `RandAugment()`.
        sharpening_temperature: Temperature (T) with which predictions are sharpened, above 0; 1
            does not change them.
        mixup_beta: Parameter of the Beta distribution of MixUp's weight, above 0.
        unlabeled_weight: Weight of the consistency loss of the mixed images, at least 0.
        premixup_weight: Weight of the same loss of the first strong views before MixUp, at least
            0.
        rotation_weight: Weight of the loss of the rotation head, at least 0.
        ramp_steps: Number of steps, at least 0, in which `unlabeled_weight` and `premixup_weight`
            grow linearly from 0. In DASO's comparison it is 1.6 % of the run.

    All batches must have the same size. The number of unlabeled images must be a multiple of the
    number of labeled images.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3))
    >>> model = ReMixMatch(encoder, num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.rotation_head.units
    4

    Reference:
        Berthelot et al., "ReMixMatch: Semi-Supervised Learning with Distribution Alignment and
        Augmentation Anchoring", ICLR 2020, algorithm 1.
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "threshold": NO_THRESHOLD,
            "margins": NO_MARGINS,
            "joint_pass": NO_JOINT_PASS,
            "frozen_encoder": "it mixes and rotates images, and stored views can be neither",
        }
    )

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | str | None = None,
        *,
        distribution_alignment: keras.layers.Layer | None = None,
        strong: keras.layers.Layer | None = None,
        sharpening_temperature: float = 0.5,
        mixup_beta: float = 0.75,
        unlabeled_weight: float = 1.5,
        premixup_weight: float = 0.5,
        rotation_weight: float = 0.5,
        **kwargs: Any,
    ):
        mixing.check_arguments(sharpening_temperature, mixup_beta)
        premixup_weight = checked_number("premixup_weight", premixup_weight, least=0)
        rotation_weight = checked_number("rotation_weight", rotation_weight, least=0)
        super().__init__(
            encoder,
            num_classes,
            LinearPseudoLabeler() if pseudo_labeler is None else pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss", "premixup_loss", "rotation_loss"),
            unlabeled_weight=unlabeled_weight,
            **kwargs,
        )
        compatibility.check(
            type(self),
            pseudo_labeler=self.pseudo_labeler,
            distribution_alignment=distribution_alignment,
        )
        self.sharpening_temperature = float(sharpening_temperature)
        self.mixup_beta = float(mixup_beta)
        self.premixup_weight = premixup_weight
        self.rotation_weight = rotation_weight
        self.strong = RandAugment() if strong is None else strong
        self.strong.build((None, None, None, 3))
        self.distribution_alignment = distribution_alignment
        if distribution_alignment is not None and not distribution_alignment.built:
            distribution_alignment.build((None, self.num_classes))
        self.rotation_head, _ = self.add_head("rotation_head", 4)

    def set_class_distribution(self, shares: np.ndarray) -> None:
        """Also for distribution alignment; see `Learner.set_class_distribution`."""
        super().set_class_distribution(shares)
        if self.distribution_alignment is not None:
            self.distribution_alignment.set_class_distribution(shares)

    def make_views(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor
    ) -> ReMixMatchViews:
        """Makes weak views of both sides and two strong views of the unlabeled side."""
        seeds = tf.random.experimental.stateless_split(seed, 8, alg="philox")
        unlabeled_count = tf.shape(unlabeled)[0]
        # Strong views are made at the resolution of the encoder, as in the published comparison.
        size = (self.resolution, self.resolution)
        before_strong = [resize(self.weak(unlabeled, seed=seeds[i]), size) for i in (2, 3)]
        return ReMixMatchViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            strong=self.as_input(self.strong(before_strong[0], seed=seeds[4])),
            second_strong=self.as_input(self.strong(before_strong[1], seed=seeds[5])),
            turns=replicas.own_rows(
                draws.whole_numbers(seeds[6], replicas.count() * unlabeled_count, bits=2)
            ),
            mixup=mixing.draw_mixup(
                seeds[7], tf.shape(labeled)[0] + 3 * unlabeled_count, self.mixup_beta
            ),
        )

    def cut_views(self, views: ReMixMatchViews, count: int) -> ReMixMatchViews:
        """Cuts views into microbatches; MixUp then mixes within each."""
        mixed = views.labeled, views.weak, views.strong, views.second_strong
        mixup = mixing.cut(views.mixup, [view.shape[0] for view in mixed], count)
        labeled, weak, strong, second_strong = super().cut_views(mixed, count)
        turns = super().cut_views(views.turns, count)
        return ReMixMatchViews(labeled, weak, strong, second_strong, turns, mixup)

    def make_strong_labeled_views(self, labeled: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Makes strong views of the labeled images; see `Learner.make_strong_labeled_views`."""
        seed = tf.random.experimental.stateless_fold_in(seed, 1, alg="philox")
        seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
        weak = resize(self.weak(labeled, seed=seeds[0]), (self.resolution, self.resolution))
        return self.as_input(self.strong(weak, seed=seeds[1]))

    @property
    def needs_strong_labeled(self) -> bool:
        """Whether a part asks for strong views of the labeled images."""
        return super().needs_strong_labeled or "blank_image" in self.pseudo_labeler.asks_for

    def compute_losses(
        self,
        views: ReMixMatchViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        strong_labeled: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step, in the order of the paper's algorithm."""
        labeler = self.pseudo_labeler
        if isinstance(labeler, CDMADPseudoLabeler):
            return self._losses_of_cdmad(labeler, views, labels, strong_labeled, belongs)
        step = tf.convert_to_tensor(self.step)
        known = known_images.argument(belongs)
        self.observe_labeled(views.labeled, labels)

        # The published order of passes: weak views, mixed batches, strong views, rotated strong
        # views. With DASO, weak and strong views are one joint batch.
        joint = "labeled_features" in labeler.asks_for
        if joint:
            weak, strong = self.forward(views.weak, views.strong)
        else:
            (weak,) = self.forward(views.weak)
        averaged = self.averaged_features(
            views.weak,
            views.strong,
            views.labeled if strong_labeled is None else strong_labeled,
            labels,
            step,
        )
        guess = tf.stop_gradient(tf.nn.softmax(self.teaching_logits(weak, step, averaged)))
        if self.distribution_alignment is not None:
            guess = self.distribution_alignment(guess, **known)
        pseudo_labels = mixing.sharpened_pseudo_labels(
            labeler, guess, self.sharpening_temperature, weak.features, step, positions, belongs
        )
        target = pseudo_labels.target

        logits, targets = mixing.mixed(
            lambda images: self.forward(images)[0].logits,
            [views.labeled, views.weak, views.strong, views.second_strong],
            [tf.one_hot(labels, self.num_classes), target, target, target],
            views.mixup,
            belongs,
        )
        if not joint:
            (strong,) = self.forward(views.strong)
        sizes = [views.labeled.shape[0], -1]
        labeled_logits, unlabeled_logits = tf.split(logits, sizes)
        labeled_targets, unlabeled_targets = tf.split(targets, sizes)
        consistency_loss = losses.soft_cross_entropy(unlabeled_targets, unlabeled_logits)
        premixup_loss = losses.soft_cross_entropy(target, strong.logits)
        premixup_weight = self.premixup_weight * self.ramp_at(step)
        rotation_loss = losses.cross_entropy(views.turns, self._rotation_logits(views))
        terms = {
            "supervised_loss": self.supervised_loss(labeled_targets, labeled_logits, step),
            "consistency_loss": self.weight_at(step) * known_images.mean(consistency_loss, belongs),
            "premixup_loss": premixup_weight * known_images.mean(premixup_loss, belongs),
            "rotation_loss": self.rotation_weight * known_images.mean(rotation_loss, belongs),
            **labeler.auxiliary_losses(weak.features, strong.features, step, **known),
        }
        if self.balanced_head is not None:
            if averaged is None:
                # The head learns from images before MixUp. So far, the labeled ones were mixed.
                labeled = self.forward(views.labeled)[0].features
            else:
                labeled = averaged.labeled
            features = Features(labeled, weak.features, strong.features)
            terms.update(self.balanced_losses(features, labels, step, averaged))
        return StepOutcome(terms, labeled_logits, pseudo_labels, belongs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this model."""
        alignment = self.distribution_alignment
        return {
            **super().get_config(),
            "distribution_alignment": alignment and keras.saving.serialize_keras_object(alignment),
            "strong": keras.saving.serialize_keras_object(self.strong),
            "sharpening_temperature": self.sharpening_temperature,
            "mixup_beta": self.mixup_beta,
            "premixup_weight": self.premixup_weight,
            "rotation_weight": self.rotation_weight,
        }

    def _losses_of_cdmad(
        self,
        labeler: CDMADPseudoLabeler,
        views: ReMixMatchViews,
        labels: tf.Tensor,
        strong_labeled: tf.Tensor | None,
        belongs: tf.Tensor | None,
    ) -> StepOutcome:
        """Computes the losses of one step as CDMAD's authors do.

        They mix strong views of the labeled images, and learn the weak ones in addition. The order
        of passes is theirs, too.
        """
        step = tf.convert_to_tensor(self.step)
        bias = self.blank_logits()
        (weak,) = self.forward(views.weak)
        guess = tf.nn.softmax(labeler.teaching_logits(weak.logits, bias, step))
        guess = tf.stop_gradient(guess)
        pseudo_labels = mixing.sharpened_pseudo_labels(
            labeler, guess, self.sharpening_temperature, weak.features, step, None, belongs
        )
        target = pseudo_labels.target
        one_hot = tf.one_hot(labels, self.num_classes)

        first = views.labeled if strong_labeled is None else strong_labeled
        logits, targets = mixing.mixed(
            lambda images: self.forward(images)[0].logits,
            [first, views.weak, views.strong, views.second_strong],
            [one_hot, target, target, target],
            views.mixup,
            belongs,
        )
        (labeled,) = self.forward(views.labeled)
        rotation_loss = losses.cross_entropy(views.turns, self._rotation_logits(views))
        (strong,) = self.forward(views.strong)
        sizes = [views.labeled.shape[0], -1]
        labeled_logits, unlabeled_logits = tf.split(logits, sizes)
        labeled_targets, unlabeled_targets = tf.split(targets, sizes)
        of_mixed = bounded_cross_entropy(labeled_targets, labeled_logits)
        of_weak = bounded_cross_entropy(one_hot, labeled.logits)
        consistency_loss = bounded_cross_entropy(unlabeled_targets, unlabeled_logits)
        premixup_loss = losses.soft_cross_entropy(target, strong.logits)
        premixup_weight = self.premixup_weight * self.ramp_at(step)
        terms = {
            "supervised_loss": tf.reduce_mean(of_mixed) + tf.reduce_mean(of_weak),
            "consistency_loss": self.weight_at(step) * known_images.mean(consistency_loss, belongs),
            "premixup_loss": premixup_weight * known_images.mean(premixup_loss, belongs),
            "rotation_loss": self.rotation_weight * known_images.mean(rotation_loss, belongs),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, belongs)

    def _rotation_logits(self, views: ReMixMatchViews) -> tf.Tensor:
        """Maps the rotated strong views, as a separate batch, to logits of the four rotations."""
        images = views.strong
        turned = tf.stack([tf.image.rot90(images, quarters) for quarters in range(4)], axis=1)
        images = tf.gather(turned, views.turns, axis=1, batch_dims=1)
        return tf.cast(self.rotation_head(self.network.features(images)), tf.float32)
