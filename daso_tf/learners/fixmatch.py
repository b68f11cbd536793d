"""FixMatch, with whatever says what its unlabeled images are taught."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf.augment import RandAugment
from daso_tf.balance.balanced_head import Features
from daso_tf.pseudo_labels import PseudoLabeler
from daso_tf.step import losses
from daso_tf.step.outcome import StepOutcome
from daso_tf.step.pseudo_labeling import PseudoLabelingLearner
from daso_tf.thresholds import Threshold


class Views(NamedTuple):
    """The views of a FixMatch step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        weak: float `(mu * batch, resolution, resolution, 3)`, of the unlabeled ones.
        strong: float `(mu * batch, resolution, resolution, 3)`, of the same unlabeled ones.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class FixMatch(PseudoLabelingLearner):
    """FixMatch: the strong view is taught what the weak view is confidently taken for.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        pseudo_labeler: A `PseudoLabeler`; by default a `LinearPseudoLabeler`, which makes this
            plain FixMatch.
        strong: Layer that makes a strong view of a weak one; by default `RandAugment()`.
        confidence_threshold: Pseudo-labels of less confidence are not taught, in [0, 1]; or a
            `daso_tf.thresholds.Threshold`, which says how much each one is.
        **kwargs: As for `PseudoLabelingLearner` and `Learner`: `unlabeled_weight`, `ramp_steps`,
            `balanced_head`, `supervised_loss`, `weak`, `weight_decay`, `ema_decay`, `resolution`,
            `mean`, `std`, `class_names`, `seed`, `name`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> model = FixMatch(daso_tf.encoders.wide_resnet(10, 1), num_classes=10)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['consistency_loss', 'gradient_norm', 'loss', 'mask_rate', 'supervised_loss']

    Reference:
        Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
        Confidence", NeurIPS 2020, algorithm 1.
    """

    refuses_balanced_head = None
    refuses_margins = None
    refuses_threshold = None

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | None = None,
        *,
        strong: keras.layers.Layer | None = None,
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
        self.strong = RandAugment() if strong is None else strong
        self.strong.build((None, None, None, 3))

    def make_views(self, labeled, unlabeled, seed) -> Views:
        """Makes weak views of both sides and strong views of the unlabeled side."""
        seeds = tf.random.experimental.stateless_split(seed, 4, alg="philox")
        strong_start = self.weak(unlabeled, seed=seeds[2])  # a weak draw of its own
        return Views(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            strong=self.as_input(self.strong(strong_start, seed=seeds[3])),
        )

    def compute_losses(self, views: Views, labels, positions=None) -> StepOutcome:
        """Computes the losses of one step, in the order of the paper's algorithm."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views.labeled, labels)

        labeled, weak, strong = self.forward(*views)
        pseudo_labels = labeler(
            tf.nn.softmax(self.teaching_logits(weak, step)),
            weak.features,
            step=step,
            positions=positions,
        )
        mask = self.threshold(pseudo_labels.target, labels, positions).weights
        consistency_loss = losses.consistency(
            pseudo_labels.final, mask, labeler.with_margins(strong.logits)
        )
        terms = {
            "supervised_loss": self.supervised_loss(labels, labeled.logits, step),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            **labeler.auxiliary_losses(weak.features, strong.features, step),
            **self.threshold.auxiliary_losses(strong.logits, mask),
            **self.balanced_losses(
                Features(labeled.features, weak.features, strong.features), labels, step
            ),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, mask)

    def get_config(self):
        """Returns the arguments that make this model again."""
        return {
            **super().get_config(),
            "strong": keras.saving.serialize_keras_object(self.strong),
            "confidence_threshold": keras.saving.serialize_keras_object(self.threshold),
        }
