"""ReMixMatch: MixMatch with strong views that are taught what the weak one is taken for."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf.augment import RandAugment
from daso_tf.balance.balanced_head import Features
from daso_tf.learners import mixing
from daso_tf.platform import draws, replicas
from daso_tf.pseudo_labels import PseudoLabeler
from daso_tf.step import losses
from daso_tf.step.outcome import StepOutcome
from daso_tf.step.pseudo_labeling import PseudoLabelingLearner


class Views(NamedTuple):
    """The views of a ReMixMatch step, as the encoder takes them, and how they are mixed.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        weak: float `(mu * batch, resolution, resolution, 3)`, of the unlabeled ones.
        strong: float `(mu * batch, resolution, resolution, 3)`, of the same unlabeled ones.
        second_strong: float `(mu * batch, resolution, resolution, 3)`, others of the same.
        turns: int `(mu * batch,)`, by how many quarters each strong view is turned, 0 to 3.
        mixup: The `MixUp` of the first four, in this order.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor
    second_strong: tf.Tensor
    turns: tf.Tensor
    mixup: mixing.MixUp


@keras.saving.register_keras_serializable(package="daso_tf")
class ReMixMatch(PseudoLabelingLearner):
    """ReMixMatch: MixMatch with aligned guesses, strong views and a guess of the rotation.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        pseudo_labeler: A `PseudoLabeler`; by default a `LinearPseudoLabeler`, which leaves the
            guess as it is.
        distribution_alignment: Layer that scales the prediction for the weak view, called as
            `layer(probabilities)`, before it is sharpened; None for none. The paper has it; DASO's
            comparison only where labeled and unlabeled images are equally imbalanced.
        strong: Layer that makes a strong view of a weak one; by default `RandAugment()`.
        sharpening_temperature: T, of the guess, above 0; 1 sharpens nothing.
        mixup_beta: Parameter of the Beta distribution of the mixing weight, above 0.
        unlabeled_weight: Weight of the consistency loss of the mixed images, at least 0.
        premixup_weight: Weight of the same loss of one strong view as it is, at least 0.
        rotation_weight: Weight of the loss of the rotation head, at least 0.
        ramp_steps: Steps over which consistency and premixup loss grow linearly to their weights;
            0 for none. In DASO's comparison they are the first 1.6 % of the run.
        **kwargs: As for `PseudoLabelingLearner` and `Learner`: `balanced_head`, `supervised_loss`,
            `weak`, `weight_decay`, `ema_decay`, `resolution`, `mean`, `std`, `class_names`, `seed`,
            `name`.

    Batches must have one size, and the unlabeled images be a multiple of the labeled ones.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> model = ReMixMatch(daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3)), num_classes=10)
    >>> model.rotation_head.units
    4

    Reference:
        Berthelot et al., "ReMixMatch: Semi-Supervised Learning with Distribution Alignment and
        Augmentation Anchoring", ICLR 2020, algorithm 1.
    """

    refuses_balanced_head = None

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | None = None,
        *,
        distribution_alignment: keras.layers.Layer | None = None,
        strong: keras.layers.Layer | None = None,
        sharpening_temperature: float = 0.5,
        mixup_beta: float = 0.75,
        unlabeled_weight: float = 1.5,
        premixup_weight: float = 0.5,
        rotation_weight: float = 0.5,
        **kwargs,
    ):
        mixing.check_arguments(sharpening_temperature, mixup_beta)
        for name, weight in (
            ("premixup_weight", premixup_weight),
            ("rotation_weight", rotation_weight),
        ):
            if not weight >= 0:
                raise ValueError(f"{name} must be at least 0, not {weight}.")
        super().__init__(
            encoder,
            num_classes,
            pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss", "premixup_loss", "rotation_loss"),
            unlabeled_weight=unlabeled_weight,
            **kwargs,
        )
        self.sharpening_temperature = float(sharpening_temperature)
        self.mixup_beta = float(mixup_beta)
        self.premixup_weight = float(premixup_weight)
        self.rotation_weight = float(rotation_weight)
        self.strong = RandAugment() if strong is None else strong
        self.strong.build((None, None, None, 3))
        self.distribution_alignment = distribution_alignment
        if distribution_alignment is not None and not distribution_alignment.built:
            distribution_alignment.build((None, self.num_classes))
        self.rotation_head, _ = self.add_head("rotation_head", 4)

    def make_views(self, labeled, unlabeled, seed) -> Views:
        """Makes weak views of both sides and two strong views of the unlabeled side."""
        seeds = tf.random.experimental.stateless_split(seed, 8, alg="philox")
        unlabeled_count = tf.shape(unlabeled)[0]
        strong_starts = [self.weak(unlabeled, seed=seeds[i]) for i in (2, 3)]
        return Views(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            strong=self.as_input(self.strong(strong_starts[0], seed=seeds[4])),
            second_strong=self.as_input(self.strong(strong_starts[1], seed=seeds[5])),
            turns=replicas.own_rows(
                draws.whole_numbers(seeds[6], replicas.count() * unlabeled_count, bits=2)
            ),
            mixup=mixing.draw_mixup(
                seeds[7], tf.shape(labeled)[0] + 3 * unlabeled_count, self.mixup_beta
            ),
        )

    def cut_views(self, views: Views, count: int) -> Views:
        """Cuts views into microbatches, each of which is mixed within itself."""
        mixed = (views.labeled, views.weak, views.strong, views.second_strong)
        parts = super().cut_views(views._replace(mixup=()), count)
        sizes = [view.shape[0] for view in mixed]
        return parts._replace(mixup=mixing.cut(views.mixup, sizes, count))

    def compute_losses(self, views: Views, labels, positions=None) -> StepOutcome:
        """Computes the losses of one step, in the order of the paper's algorithm."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views.labeled, labels)

        # Weak and strong view are one joint batch, as in DASO's implementation, which needs the
        # features of both; the same without DASO, so that methods differ by their labels alone.
        weak, strong = self.forward(views.weak, views.strong)
        guess = tf.stop_gradient(tf.nn.softmax(self.teaching_logits(weak, step)))
        if self.distribution_alignment is not None:
            guess = self.distribution_alignment(guess)
        guess = mixing.sharpen(guess, self.sharpening_temperature)
        pseudo_labels = labeler(guess, weak.features, step=step, positions=positions)
        target = pseudo_labels.target

        logits, targets = mixing.mixed(
            lambda images: self.forward(images)[0].logits,
            [views.labeled, views.weak, views.strong, views.second_strong],
            [tf.one_hot(labels, self.num_classes), target, target, target],
            views.mixup,
        )
        sizes = [views.labeled.shape[0], -1]
        labeled_logits, unlabeled_logits = tf.split(logits, sizes)
        labeled_targets, unlabeled_targets = tf.split(targets, sizes)
        consistency_loss = losses.soft_cross_entropy(unlabeled_targets, unlabeled_logits)
        premixup_loss = losses.soft_cross_entropy(target, strong.logits)
        premixup_weight = self.premixup_weight * self.ramp_at(step)
        rotation_loss = losses.cross_entropy(views.turns, self._rotation_logits(views))
        terms = {
            "supervised_loss": self.supervised_loss(labeled_targets, labeled_logits, step),
            "consistency_loss": self.weight_at(step) * tf.reduce_mean(consistency_loss),
            "premixup_loss": premixup_weight * tf.reduce_mean(premixup_loss),
            "rotation_loss": self.rotation_weight * tf.reduce_mean(rotation_loss),
            **labeler.auxiliary_losses(weak.features, strong.features, step),
        }
        if self.balanced_head is not None:
            # It learns from images as they are, and the labeled ones are only mixed so far.
            (labeled,) = self.forward(views.labeled)
            features = Features(labeled.features, weak.features, strong.features)
            terms.update(self.balanced_losses(features, labels, step))
        return StepOutcome(terms, labeled_logits, pseudo_labels)

    def get_config(self):
        """Returns the arguments that make this model again."""
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

    def _rotation_logits(self, views: Views) -> tf.Tensor:
        """Maps the turned strong views, a batch of their own, to logits of the four turns."""
        images = views.strong
        turned = tf.stack([tf.image.rot90(images, quarters) for quarters in range(4)], axis=1)
        images = tf.gather(turned, views.turns, axis=1, batch_dims=1)
        return tf.cast(self.rotation_head(self.features(images)), tf.float32)
