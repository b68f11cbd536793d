"""A student: weak views of unlabeled images are taught distributions over all classes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.pseudo_labels import LinearPseudoLabeler, PseudoLabeler
from daso_tf.step import known_images, losses
from daso_tf.step.learner import NO_BALANCED_HEAD, NO_STEP_LOSSES, NO_THRESHOLD, Learner
from daso_tf.step.outcome import StepOutcome


class StudentViews(NamedTuple):
    """The views of a step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, ...)`, weak views of the labeled images.
        weak: float `(mu * batch, ...)`, weak views of the unlabeled images.
    """

    labeled: tf.Tensor
    weak: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class Student(Learner):
    """A student that is taught class distributions, without a threshold and without strong views.

    It is made for the `TeacherPseudoLabeler` on frozen features: there the teacher is better than
    what a network learns of itself while it trains, and a view that is distorted strongly teaches
    less than a weak one.

    Args:
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; by default a
            `LinearPseudoLabeler`, with which the student teaches itself.

    Raises:
        ValueError: If an argument is outside its range, or two parts cannot be combined.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> model = Student(encoder, num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['consistency_loss', 'gradient_norm', 'loss', 'mask_rate', 'supervised_loss']
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "threshold": NO_THRESHOLD,
            "balanced_head": NO_BALANCED_HEAD,
            "step_losses": NO_STEP_LOSSES,
        }
    )

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | str | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            encoder,
            num_classes,
            LinearPseudoLabeler() if pseudo_labeler is None else pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss"),
            **kwargs,
        )

    def make_views(self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor) -> StudentViews:
        """Makes weak views of both sides."""
        seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
        return StudentViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
        )

    def compute_losses(
        self,
        views: StudentViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views.labeled, labels)

        labeled, weak = self.forward(*views)
        known = known_images.argument(belongs)
        pseudo_labels = labeler(
            tf.nn.softmax(weak.logits), weak.features, step=step, positions=positions, **known
        )
        teaching = losses.soft_cross_entropy(
            pseudo_labels.target, labeler.with_margins(weak.logits)
        )
        weights = known_images.taught(labeler.image_weights(positions), belongs)
        if weights is not None:
            teaching *= weights
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * tf.reduce_mean(teaching),
            **labeler.auxiliary_losses(weak.features, weak.features, step, **known),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, weights)
