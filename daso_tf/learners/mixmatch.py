"""MixMatch: averaged and sharpened predictions, and MixUp of all images."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.learners import mixing
from daso_tf.pseudo_labels import LinearPseudoLabeler, PseudoLabeler
from daso_tf.step import known_images, losses
from daso_tf.step.learner import (
    NO_BALANCED_HEAD,
    NO_MARGINS,
    NO_STEP_LOSSES,
    NO_THRESHOLD,
    Learner,
)
from daso_tf.step.outcome import StepOutcome


class MixMatchViews(NamedTuple):
    """The views of a MixMatch step, as the encoder takes them, and how they are mixed.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        first: float `(mu * batch, resolution, resolution, 3)`, weak views of the unlabeled
            images.
        second: float `(mu * batch, resolution, resolution, 3)`, other weak views of the same
            images.
        mixup: The `MixUp` of all of them, in this order.
    """

    labeled: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor
    mixup: mixing.MixUp


@keras.saving.register_keras_serializable(package="daso_tf")
class MixMatch(Learner):
    """MixMatch: mixed images are taught mixed targets; those of unlabeled images are predictions.

    Args:
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; by default a
            `LinearPseudoLabeler`, which leaves the predictions as they are. The paper's MixMatch
            with DASO has no alignment loss: give `DASOPseudoLabeler(alignment_weight=0.0)`.
        sharpening_temperature: Temperature (T) with which predictions are sharpened, above 0; 1
            does not change them.
        mixup_beta: Parameter of the Beta distribution of MixUp's weight, above 0.
        unlabeled_weight: Weight of the consistency loss, at least 0.
        ramp_steps: Number of steps, at least 0, in which this weight grows linearly from 0. In
            DASO's comparison it is 1.6 % of the run.

    All batches must have the same size. The number of unlabeled images must be a multiple of the
    number of labeled images.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> model = MixMatch(encoder, 10, ramp_steps=20, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['consistency_loss', 'gradient_norm', 'loss', 'mask_rate', 'supervised_loss']

    Reference:
        Berthelot et al., "MixMatch: A Holistic Approach to Semi-Supervised Learning", NeurIPS 2019,
        algorithm 1.
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "threshold": NO_THRESHOLD,
            "balanced_head": NO_BALANCED_HEAD,
            "margins": NO_MARGINS,
            "step_losses": NO_STEP_LOSSES,
            "frozen_encoder": "it mixes images, and stored views cannot be mixed",
        }
    )

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | str | None = None,
        *,
        sharpening_temperature: float = 0.5,
        mixup_beta: float = 0.5,
        unlabeled_weight: float = 100.0,
        **kwargs: Any,
    ):
        mixing.check_arguments(sharpening_temperature, mixup_beta)
        super().__init__(
            encoder,
            num_classes,
            LinearPseudoLabeler() if pseudo_labeler is None else pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss"),
            unlabeled_weight=unlabeled_weight,
            **kwargs,
        )
        self.sharpening_temperature = float(sharpening_temperature)
        self.mixup_beta = float(mixup_beta)

    def make_views(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor
    ) -> MixMatchViews:
        """Makes a weak view of the labeled images and two of the unlabeled ones."""
        seeds = tf.random.experimental.stateless_split(seed, 4, alg="philox")
        count = tf.shape(labeled)[0] + 2 * tf.shape(unlabeled)[0]
        return MixMatchViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            first=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            second=self.as_input(self.weak(unlabeled, seed=seeds[2])),
            mixup=mixing.draw_mixup(seeds[3], count, self.mixup_beta),
        )

    def cut_views(self, views: MixMatchViews, count: int) -> MixMatchViews:
        """Cuts views into microbatches; MixUp then mixes within each."""
        mixed = views.labeled, views.first, views.second
        mixup = mixing.cut(views.mixup, [view.shape[0] for view in mixed], count)
        labeled, first, second = super().cut_views(mixed, count)
        return MixMatchViews(labeled, first, second, mixup)

    def compute_losses(
        self,
        views: MixMatchViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step, in the order of the paper's algorithm."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        known = known_images.argument(belongs)
        self.observe_labeled(views.labeled, labels)

        # The mean of the predictions for both views, sharpened. BatchNorm sees each view as a
        # separate batch.
        (first,), (second,) = self.forward(views.first), self.forward(views.second)
        guess = (tf.nn.softmax(first.logits) + tf.nn.softmax(second.logits)) / 2
        pseudo_labels = mixing.sharpened_pseudo_labels(
            labeler,
            tf.stop_gradient(guess),
            self.sharpening_temperature,
            first.features,
            step,
            positions,
            belongs,
        )

        logits, targets = mixing.mixed(
            lambda images: self.forward(images)[0].logits,
            [views.labeled, views.first, views.second],
            [tf.one_hot(labels, self.num_classes), pseudo_labels.target, pseudo_labels.target],
            views.mixup,
            belongs,
        )
        sizes = [views.labeled.shape[0], -1]
        labeled_logits, unlabeled_logits = tf.split(logits, sizes)
        labeled_targets, unlabeled_targets = tf.split(targets, sizes)
        consistency_loss = losses.squared_error(unlabeled_targets, unlabeled_logits, belongs)
        terms = {
            "supervised_loss": self.supervised_loss(labeled_targets, labeled_logits, step),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            **labeler.auxiliary_losses(first.features, second.features, step, **known),
        }
        return StepOutcome(terms, labeled_logits, pseudo_labels, belongs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this model."""
        return {
            **super().get_config(),
            "sharpening_temperature": self.sharpening_temperature,
            "mixup_beta": self.mixup_beta,
        }
