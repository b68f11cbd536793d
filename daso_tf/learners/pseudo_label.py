"""Pseudo-label: the network is taught its own confident predictions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.pseudo_labels import LinearPseudoLabeler, PseudoLabeler
from daso_tf.step import known_images, losses
from daso_tf.step.learner import NO_BALANCED_HEAD, NO_STEP_LOSSES, Learner
from daso_tf.step.outcome import StepOutcome
from daso_tf.thresholds import Threshold


class PseudoLabelViews(NamedTuple):
    """The views of a pseudo-label step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        unlabeled: float `(mu * batch, resolution, resolution, 3)`, weak views of the unlabeled
            images.
    """

    labeled: tf.Tensor
    unlabeled: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class PseudoLabel(Learner):
    """Pseudo-label: each unlabeled view is taught its own confident prediction.

    Unlike FixMatch, it predicts and teaches the same view.

    Args:
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; by default a
            `LinearPseudoLabeler`, as in the paper.
        ramp_steps: Number of steps, at least 0, in which the weight of the unlabeled loss grows
            linearly from 0. In DASO's comparison it is 40 % of the run.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> model = PseudoLabel(encoder, 10, ramp_steps=400, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> float(logs["consistency_loss"])  # the weight starts at 0
    0.0

    Reference:
        Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
        Networks", ICML 2013 workshop on challenges in representation learning, section 2.2.
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"balanced_head": NO_BALANCED_HEAD, "step_losses": NO_STEP_LOSSES}
    )

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | str | None = None,
        *,
        threshold: float | str | Threshold = 0.95,
        **kwargs: Any,
    ):
        super().__init__(
            encoder,
            num_classes,
            LinearPseudoLabeler() if pseudo_labeler is None else pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss"),
            threshold=threshold,
            **kwargs,
        )

    def make_views(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor
    ) -> PseudoLabelViews:
        """Makes a weak view of every image."""
        seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
        return PseudoLabelViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            unlabeled=self.as_input(self.weak(unlabeled, seed=seeds[1])),
        )

    def compute_losses(
        self,
        views: PseudoLabelViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views.labeled, labels)

        labeled, unlabeled = self.forward(*views)
        target = tf.stop_gradient(tf.nn.softmax(unlabeled.logits))
        known = known_images.argument(belongs)
        pseudo_labels = labeler(target, unlabeled.features, step=step, positions=positions, **known)
        pseudo_labels, selection = self.selected(
            pseudo_labels, unlabeled.logits, labels, step, positions, belongs
        )
        weights = selection.weights
        consistency_loss = losses.consistency(
            pseudo_labels.final, weights, labeler.with_margins(unlabeled.logits)
        )
        terms = {
            "supervised_loss": self.supervised_loss(
                labels, labeled.logits, step, selection.labeled_weights
            ),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            # There is one view only: it is aligned with itself.
            **labeler.auxiliary_losses(unlabeled.features, unlabeled.features, step, **known),
            **self.threshold.auxiliary_losses(unlabeled.logits, weights),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, weights)
