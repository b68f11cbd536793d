"""FixMatch, with any pseudo-labeler."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.balance.balanced_head import Features
from daso_tf.pseudo_labels import LinearPseudoLabeler, PseudoLabeler
from daso_tf.step import losses
from daso_tf.step.learner import Learner
from daso_tf.step.outcome import StepOutcome
from daso_tf.step.stored_views import default_strong
from daso_tf.thresholds import Threshold


class FixMatchViews(NamedTuple):
    """The views of a FixMatch step, as the encoder takes them.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        weak: float `(mu * batch, resolution, resolution, 3)`, weak views of the unlabeled images.
        strong: float `(mu * batch, resolution, resolution, 3)`, strong views of the same images.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class FixMatch(Learner):
    """FixMatch: strong views are taught the confident pseudo-labels of weak views.

    Args:
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; by default a
            `LinearPseudoLabeler`, which makes this plain FixMatch.
        strong: Layer that makes strong views of weak ones, called as `strong(images, seed=...)`; by
            default `RandAugment()`, or, with `data` of a feature bank, its stored ones.

    Raises:
        ValueError: If an argument is outside its range, or two parts cannot be combined.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> model = FixMatch(encoder, num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['consistency_loss', 'gradient_norm', 'loss', 'mask_rate', 'supervised_loss']

    Reference:
        Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
        Confidence", NeurIPS 2020, algorithm 1.
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | str | None = None,
        *,
        strong: keras.layers.Layer | None = None,
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
        self.strong = default_strong(kwargs.get("data")) if strong is None else strong
        self.strong.build((None, None, None, 3))

    def make_views(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor
    ) -> FixMatchViews:
        """Makes weak views of both sides and strong views of the unlabeled side."""
        seeds = tf.random.experimental.stateless_split(seed, 4, alg="philox")
        before_strong = self.weak(unlabeled, seed=seeds[2])  # another draw than the weak views
        return FixMatchViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            strong=self.as_input(self.strong(before_strong, seed=seeds[3])),
        )

    def make_strong_labeled_views(self, labeled: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Makes strong views of the labeled images; see `Learner.make_strong_labeled_views`."""
        seed = tf.random.experimental.stateless_fold_in(seed, 1, alg="philox")
        seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
        return self.as_input(self.strong(self.weak(labeled, seed=seeds[0]), seed=seeds[1]))

    def compute_losses(
        self,
        views: FixMatchViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        strong_labeled: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step, in the order of the paper's algorithm."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views.labeled, labels)

        labeled, weak, strong = self.forward(*views)
        averaged = self.averaged_features(
            views.weak,
            views.strong,
            views.labeled if strong_labeled is None else strong_labeled,
            labels,
            step,
        )
        probabilities = tf.nn.softmax(self.teaching_logits(weak, step, averaged))
        pseudo_labels = labeler(probabilities, weak.features, step=step, positions=positions)
        selection = self.threshold(
            pseudo_labels.target, labels, positions, step=step - self.first_step
        )
        if selection.labels is not None:
            pseudo_labels = pseudo_labels._replace(final=selection.labels)
        consistency_loss = losses.consistency(
            pseudo_labels.final, selection.weights, labeler.with_margins(strong.logits)
        )
        features = Features(labeled.features, weak.features, strong.features)
        terms = {
            "supervised_loss": self.supervised_loss(
                labels, labeled.logits, step, selection.labeled_weights
            ),
            "consistency_loss": self.weight_at(step) * consistency_loss,
            **labeler.auxiliary_losses(weak.features, strong.features, step),
            **self.threshold.auxiliary_losses(strong.logits, selection.weights),
            **self.balanced_losses(features, labels, step, averaged),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, selection.weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this model."""
        return {
            **super().get_config(),
            "strong": keras.saving.serialize_keras_object(self.strong),
        }
