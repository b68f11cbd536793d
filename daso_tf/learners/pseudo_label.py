"""Pseudo-label: the network is taught what it says already."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf.pseudo_labels import PseudoLabeler
from daso_tf.step import losses
from daso_tf.step.outcome import StepOutcome
from daso_tf.step.pseudo_labeling import PseudoLabelingLearner
from daso_tf.thresholds import Threshold


class Views(NamedTuple):
    """The views of a pseudo-label step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        unlabeled: float `(mu * batch, resolution, resolution, 3)`, of the unlabeled ones.
    """

    labeled: tf.Tensor
    unlabeled: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class PseudoLabel(PseudoLabelingLearner):
    """Pseudo-label: each unlabeled view is taught the class that it is confidently taken for.

    Unlike in FixMatch the view that is taught is the one that was classified.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        pseudo_labeler: A `PseudoLabeler`; by default a `LinearPseudoLabeler`, which is the paper's.
        confidence_threshold: Pseudo-labels of less confidence are not taught, in [0, 1]; or a
            `daso_tf.thresholds.Threshold`, which says how much each one is.
        ramp_steps: Steps over which the unlabeled loss grows linearly to its weight; 0 for none.
            In DASO's comparison they are the first 40 % of the run.
        **kwargs: As for `PseudoLabelingLearner` and `Learner`: `unlabeled_weight`,
            `supervised_loss`, `weak`, `weight_decay`, `ema_decay`, `resolution`, `mean`, `std`,
            `class_names`, `seed`, `name`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> model = PseudoLabel(daso_tf.encoders.wide_resnet(10, 1), num_classes=10, ramp_steps=400)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> float(logs["consistency_loss"])  # at the foot of the ramp
    0.0

    Reference:
        Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
        Networks", ICML 2013 workshop on challenges in representation learning, section 2.2.
    """

    refuses_margins = None
    refuses_threshold = None

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | None = None,
        *,
        confidence_threshold: float | Threshold = 0.95,
        **kwargs,
    ):
        super().__init__(
            encoder,
            num_classes,
            pseudo_labeler,
            loss_names=("supervised_loss", "consistency_loss"),
            threshold=confidence_threshold,
            **kwargs,
        )

    def make_views(self, labeled, unlabeled, seed) -> Views:
        """Makes a weak view of every image."""
        seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
        return Views(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            unlabeled=self.as_input(self.weak(unlabeled, seed=seeds[1])),
        )

    def compute_losses(self, views: Views, labels, positions=None) -> StepOutcome:
        """Computes the losses of one step."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views.labeled, labels)

        labeled, unlabeled = self.forward(*views)
        target = tf.stop_gradient(tf.nn.softmax(unlabeled.logits))
        pseudo_labels = labeler(target, unlabeled.features, step=step, positions=positions)
        mask = self.threshold(pseudo_labels.target, labels, positions).weights
        consistency_loss = losses.consistency(
            pseudo_labels.final, mask, labeler.with_margins(unlabeled.logits)
        )
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            # A single view is aligned with itself, which moves nothing.
            **labeler.auxiliary_losses(unlabeled.features, unlabeled.features, step),
            **self.threshold.auxiliary_losses(unlabeled.logits, mask),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, mask)

    def get_config(self):
        """Returns the arguments that make this model again."""
        return {
            **super().get_config(),
            "confidence_threshold": keras.saving.serialize_keras_object(self.threshold),
        }
