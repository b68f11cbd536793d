"""FixMatch, with any pseudo-labeler."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.balance.balanced_head import Features
from daso_tf.platform.checks import checked_whole_number
from daso_tf.pseudo_labels import LinearPseudoLabeler, PseudoLabeler
from daso_tf.pseudo_labels.pseudo_labeler import Logits
from daso_tf.step import known_images, losses
from daso_tf.step.learner import Learner
from daso_tf.step.outcome import Outputs, StepOutcome
from daso_tf.step.stored_views import check_strong_labeled, default_strong
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


class FixMatchTwoViews(NamedTuple):
    """The views of a FixMatch step with two strong views of each unlabeled image.

    Attributes:
        labeled: float `(batch, resolution, resolution, 3)`, weak views of the labeled images.
        weak: float `(mu * batch, resolution, resolution, 3)`, weak views of the unlabeled images.
        strong: float `(mu * batch, resolution, resolution, 3)`, strong views of the same images.
        second_strong: float `(mu * batch, resolution, resolution, 3)`, other strong views of the
            same images.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor
    second_strong: tf.Tensor


@keras.saving.register_keras_serializable(package="daso_tf")
class FixMatch(Learner):
    """FixMatch: strong views are taught the confident pseudo-labels of weak views.

    Args:
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; by default a
            `LinearPseudoLabeler`, which makes this plain FixMatch.
        strong: Layer that makes strong views of weak ones, called as `strong(images, seed=...)`; by
            default `RandAugment()`, or, with `data` of a feature bank, its stored ones.
        threshold: How strongly each pseudo-label is taught: a least confidence in [0, 1], or a
            `daso_tf.thresholds.Threshold`. By default the confidence that the pseudo-labeler is
            made for: 0.95, for `CDMADPseudoLabeler` 0.
        strong_views: Strong views of each unlabeled image, in [1, 2]; the consistency loss is the
            mean over them. By default as many as the pseudo-labeler and the balanced head are made
            for.

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
        threshold: float | str | Threshold | None = None,
        strong_views: int | None = None,
        **kwargs: Any,
    ):
        if strong_views is not None:
            strong_views = checked_whole_number("strong_views", strong_views, least=1, most=2)
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
        self.strong_views = strong_views
        if self.needs_strong_labeled:
            check_strong_labeled(kwargs.get("data"))

    def make_views(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor
    ) -> FixMatchViews | FixMatchTwoViews:
        """Makes weak views of both sides and strong views of the unlabeled side."""
        seeds = tf.random.experimental.stateless_split(seed, 4, alg="philox")
        before_strong = self.weak(unlabeled, seed=seeds[2])  # another draw than the weak views
        views = FixMatchViews(
            labeled=self.as_input(self.weak(labeled, seed=seeds[0])),
            weak=self.as_input(self.weak(unlabeled, seed=seeds[1])),
            strong=self.as_input(self.strong(before_strong, seed=seeds[3])),
        )
        parts = [p for p in (self.pseudo_labeler, self.balanced_head) if p is not None]
        if (self.strong_views or max(part.strong_views for part in parts)) == 1:
            return views
        return FixMatchTwoViews(*views, self._strong_views(unlabeled, seed, stream=2))

    def make_strong_labeled_views(self, labeled: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Makes strong views of the labeled images; see `Learner.make_strong_labeled_views`."""
        return self._strong_views(labeled, seed, stream=1)

    def compute_losses(
        self,
        views: FixMatchViews | FixMatchTwoViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        strong_labeled: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses of one step, in the order of the paper's algorithm."""
        labeler = self.pseudo_labeler
        step = tf.convert_to_tensor(self.step)
        self.observe_labeled(views.labeled, labels)

        bias = self.blank_logits() if "blank_image" in labeler.asks_for else None
        labeled, weak, strong, of_strong_labeled = self._outputs(views, strong_labeled)
        averaged = self.averaged_features(
            views.weak,
            views.strong,
            views.labeled if strong_labeled is None else strong_labeled,
            labels,
            step,
        )
        teaching_logits = self.teaching_logits(weak, step, averaged)
        if bias is not None:
            teaching_logits = labeler.teaching_logits(teaching_logits, bias, step)
        probabilities = tf.nn.softmax(teaching_logits)
        known = known_images.argument(belongs)
        pseudo_labels = labeler(
            probabilities, weak.features, step=step, positions=positions, **known
        )
        pseudo_labels, selection = self.selected(
            pseudo_labels, weak.logits, labels, step, positions, belongs
        )
        weights = selection.weights
        if "step_losses" in labeler.asks_for:
            logits = Logits(
                labeled.logits, weak.logits, [view.logits for view in strong], of_strong_labeled
            )
            terms = labeler.step_losses(
                logits, labels, pseudo_labels, weights, step, positions, **known
            )
        else:
            of_views = [
                losses.consistency(pseudo_labels.final, weights, labeler.with_margins(view.logits))
                for view in strong
            ]
            terms = {
                "supervised_loss": self.supervised_loss(
                    labels, labeled.logits, step, selection.labeled_weights
                ),
                "consistency_loss": tf.add_n(of_views) / len(of_views),
            }
        terms["consistency_loss"] *= self.weight_at(step)
        features = Features(labeled.features, weak.features, strong[0].features)
        second = strong[1].features if len(strong) > 1 else None
        terms |= {
            **labeler.auxiliary_losses(weak.features, strong[0].features, step, **known),
            **self.threshold.auxiliary_losses(strong[0].logits, weights),
            **self.balanced_losses(
                features, labels, step, averaged, weak.logits, positions, second, **known
            ),
        }
        return StepOutcome(terms, labeled.logits, pseudo_labels, weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this model."""
        return {
            **super().get_config(),
            "strong": keras.saving.serialize_keras_object(self.strong),
            "strong_views": self.strong_views,
        }

    def _strong_views(self, images: tf.Tensor, seed: tf.Tensor, stream: int) -> tf.Tensor:
        """Makes further strong views; those of `make_views` do not depend on them."""
        seed = tf.random.experimental.stateless_fold_in(seed, stream, alg="philox")
        seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
        return self.as_input(self.strong(self.weak(images, seed=seeds[0]), seed=seeds[1]))

    def _outputs(
        self, views: FixMatchViews | FixMatchTwoViews, strong_labeled: tf.Tensor | None
    ) -> tuple[Outputs, Outputs, list[Outputs], tf.Tensor | None]:
        """Passes all views through the trained network.

        Returns:
            The outputs of the labeled, the weak and the strong views, and the logits of the strong
            labeled views, if the pseudo-labeler asks for them.
        """
        if "blank_image" in self.pseudo_labeler.asks_for:
            labeled_view, weak_view, *strong_views = views
            in_order = (weak_view, labeled_view, *strong_views)
            weak, labeled, *strong = [self.forward(view)[0] for view in in_order]
            return labeled, weak, strong, None
        if strong_labeled is None or "strong_labeled" not in self.pseudo_labeler.asks_for:
            labeled, weak, *strong = self.forward(*views)
            return labeled, weak, strong, None
        labeled, weak, *strong, last = self.forward(*views, strong_labeled)
        return labeled, weak, strong, last.logits
