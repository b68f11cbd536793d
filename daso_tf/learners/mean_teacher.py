"""Mean Teacher: the network is taught the predictions of its moving average."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.pseudo_labels import LinearPseudoLabeler, PseudoLabeler
from daso_tf.step import known_images, losses
from daso_tf.step.learner import (
    NO_BALANCED_HEAD,
    NO_MARGINS,
    NO_STEP_LOSSES,
    NO_THRESHOLD,
    Learner,
)
from daso_tf.step.outcome import Outputs, StepOutcome


class MeanTeacherViews(NamedTuple):
    """The views of a Mean Teacher step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        student: float `(mu * batch, resolution, resolution, 3)`, weak views of the unlabeled
            images.
        teacher: float `(mu * batch, resolution, resolution, 3)`, other weak views of the same
            images.
    """

    labeled: tf.Tensor
    student: tf.Tensor
    teacher: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class MeanTeacher(Learner):
    """Mean Teacher: the network is taught what its average predicts for another view.

    The teacher is the moving average (EMA) that makes the predictions, here in training mode:
    BatchNorm normalizes with the batch's statistics.

    Args:
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; by default a
            `LinearPseudoLabeler`, which leaves the teacher's predictions as they are. The paper's
            Mean Teacher with DASO has no alignment loss: give
            `DASOPseudoLabeler(alignment_weight=0.0)`.
        unlabeled_weight: Weight of the consistency loss, at least 0.
        ramp_steps: Number of steps, at least 0, in which this weight grows linearly from 0. In
            DASO's comparison it is 40 % of the run.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> model = MeanTeacher(encoder, 10, ramp_steps=400, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['consistency_loss', 'gradient_norm', 'loss', 'mask_rate', 'supervised_loss']

    Reference:
        Tarvainen and Valpola, "Mean teachers are better role models: Weight-averaged consistency
        targets improve semi-supervised deep learning results", NeurIPS 2017, section 2.
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "threshold": NO_THRESHOLD,
            "balanced_head": NO_BALANCED_HEAD,
            "margins": NO_MARGINS,
            "step_losses": NO_STEP_LOSSES,
        }
    )

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | str | None = None,
        *,
        unlabeled_weight: float = 50.0,
        **kwargs: Any,
    ):
        super().__init__(
            encoder,
            num_classes,
            LinearPseudoLabeler() if pseudo_labeler is None else pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss"),
            unlabeled_weight=unlabeled_weight,
            **kwargs,
        )

    def make_views(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor
    ) -> MeanTeacherViews:
        """Makes a weak view of the labeled images and two of the unlabeled ones."""
        seeds = tf.random.experimental.stateless_split(seed, 3, alg="philox")
        return MeanTeacherViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            student=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            teacher=self.as_input(self.weak(unlabeled, seed=seeds[2])),
        )

    def compute_losses(
        self,
        views: MeanTeacherViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        teacher = self._teach(views, labels)

        labeled, student = self.forward(views.labeled, views.student)
        target = tf.stop_gradient(tf.nn.softmax(teacher.logits))
        known = known_images.argument(belongs)
        pseudo_labels = labeler(target, teacher.features, step=step, positions=positions, **known)
        consistency_loss = losses.squared_error(pseudo_labels.target, student.logits, **known)
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            **labeler.auxiliary_losses(teacher.features, student.features, step, **known),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, belongs)

    def _teach(self, views: MeanTeacherViews, labels: tf.Tensor) -> Outputs:
        """Maps the teacher's views through the average.

        Where the pseudo-labeler asks for labeled features, the labeled views are part of the same
        batch. FixMatch, which needs no other features of the average, maps them separately.
        """
        observes = "labeled_features" in self.pseudo_labeler.asks_for
        images = tf.concat([views.labeled, views.teacher], 0) if observes else views.teacher
        features = self.network.ema_features(images)
        if observes:
            sizes = [tf.shape(views.labeled)[0], tf.shape(views.teacher)[0]]
            labeled_features, features = tf.split(features, sizes)
            self.pseudo_labeler.observe(labeled_features, labels)
        return Outputs(features, tf.cast(self.ema_classifier(features), tf.float32))
