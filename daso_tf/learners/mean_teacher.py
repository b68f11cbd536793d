"""Mean Teacher: the moving average of the network teaches it."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf.pseudo_labels import PseudoLabeler
from daso_tf.step import losses
from daso_tf.step.outcome import Outputs, StepOutcome
from daso_tf.step.pseudo_labeling import PseudoLabelingLearner


class Views(NamedTuple):
    """The views of a Mean Teacher step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        student: float `(mu * batch, resolution, resolution, 3)`, weak views of the unlabeled ones.
        teacher: float `(mu * batch, resolution, resolution, 3)`, other weak views of the same.
    """

    labeled: tf.Tensor
    student: tf.Tensor
    teacher: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class MeanTeacher(PseudoLabelingLearner):
    """Mean Teacher: the network shall predict what its average predicts for another view.

    The teacher is the moving average (EMA) that is evaluated, here in training mode: BatchNorm
    normalises with the batch's statistics.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        pseudo_labeler: A `PseudoLabeler`; by default a `LinearPseudoLabeler`, which leaves the
            teacher's predictions as they are. In the paper's Mean Teacher with DASO nothing is
            aligned: give `DASOPseudoLabeler(alignment_weight=0.0)`.
        unlabeled_weight: Weight of the consistency loss, at least 0.
        ramp_steps: Steps over which the consistency loss grows linearly to its weight; 0 for none.
            In DASO's comparison they are the first 40 % of the run.
        **kwargs: As for `Learner`: `supervised_loss`, `weak`, `weight_decay`, `ema_decay`,
            `resolution`, `mean`, `std`, `class_names`, `seed`, `name`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> model = MeanTeacher(daso_tf.encoders.wide_resnet(10, 1), num_classes=10, ramp_steps=400)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['consistency_loss', 'gradient_norm', 'loss', 'mask_rate', 'supervised_loss']

    Reference:
        Tarvainen and Valpola, "Mean teachers are better role models: Weight-averaged consistency
        targets improve semi-supervised deep learning results", NeurIPS 2017, section 2.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | None = None,
        *,
        unlabeled_weight: float = 50.0,
        **kwargs,
    ):
        super().__init__(
            encoder,
            num_classes,
            pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss"),
            unlabeled_weight=unlabeled_weight,
            **kwargs,
        )

    def make_views(self, labeled, unlabeled, seed) -> Views:
        """Makes a weak view of the labeled images and two of the unlabeled ones."""
        seeds = tf.random.experimental.stateless_split(seed, 3, alg="philox")
        return Views(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            student=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            teacher=self.as_input(self.weak(unlabeled, seed=seeds[2])),
        )

    def compute_losses(self, views: Views, labels, positions=None) -> StepOutcome:
        """Computes the losses of one step."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        teacher = self._teach(views, labels)

        labeled, student = self.forward(views.labeled, views.student)
        target = tf.stop_gradient(tf.nn.softmax(teacher.logits))
        pseudo_labels = labeler(target, teacher.features, step=step, positions=positions)
        consistency_loss = losses.squared_error(pseudo_labels.target, student.logits)
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            **labeler.auxiliary_losses(teacher.features, student.features, step),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels)

    def _teach(self, views: Views, labels) -> Outputs:
        """Maps the teacher's views; labeled ones go along where the pseudo-labeler looks at them.

        They are one joint batch then, where FixMatch, which needs no other features of the EMA
        encoder, maps the labeled views by themselves.
        """
        observing = "labeled_features" in self.pseudo_labeler.asks_for
        images = tf.concat([views.labeled, views.teacher], 0) if observing else views.teacher
        features = self.ema_features(images)
        if observing:
            sizes = [tf.shape(views.labeled)[0], tf.shape(views.teacher)[0]]
            labeled_features, features = tf.split(features, sizes)
            self.pseudo_labeler.observe(labeled_features, labels)
        return Outputs(features, tf.cast(self.ema_classifier(features), tf.float32))
