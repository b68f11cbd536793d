"""Interface of the balanced heads, which train a second classifier that is balanced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import tensorflow as tf

from daso_tf.platform.checks import checked_counts


class Features(NamedTuple):
    """The trained encoder's features of the views of a step. They carry the gradient.

    Attributes:
        labeled: float `(batch, D)`, of the weak views of the labeled images.
        weak: float `(mu * batch, D)`, of the weak views of the unlabeled images.
        strong: float `(mu * batch, D)`, of the strong views of the same unlabeled images.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor


class AveragedFeatures(NamedTuple):
    """Features by the averaged encoder in inference mode. No gradient flows through them.

    They are 0 in steps in which the head does not learn (`BalancedHead.learns_at`).

    Attributes:
        labeled: float `(batch, D)`, of strong views of the labeled images.
        weak: float `(mu * batch, D)`, of the weak views of the unlabeled images.
        strong: float `(mu * batch, D)`, of the strong views of the same unlabeled images.
        remembered: float `(K, Q, D)`, the latest features of strong views of labeled images, by
            class.
        counts: int `(K,)`, how many of the Q places of each class are filled, from the first one.
        draws: float `(batch, 3)`, random numbers for the choice of features, uniform in [0, 1).
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor
    remembered: tf.Tensor
    counts: tf.Tensor
    draws: tf.Tensor


class HeadStep(NamedTuple):
    """What a balanced head may use of a step.

    Attributes:
        classifier: The balanced classifier, from features to logits `(batch, K)`.
        pseudo_labels_of: As for `BalancedHead.loss`.
        features: The features of the step's views.
        labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
        draws: float `(batch + mu * batch,)`, one random number per image, uniform in [0, 1).
        step: int scalar, the number of steps done before this one.
        averaged: The features of the averaged encoder, if the head asks for "averaged_features".
        weak_logits: float `(mu * batch, K)` of the weak views, by the learner's first classifier;
            None if the learner does not have them.
        positions: int `(mu * batch,)`, the positions of the unlabeled images among all of them, if
            the head asks for "positions".
        second_strong: float `(mu * batch, D)`, features of other strong views of the unlabeled
            images; None where there is one strong view.
        belongs: float `(mu * batch,)`, 0 for unlabeled images that belong to no class, else 1; None
            without an open set.
    """

    classifier: Callable[[tf.Tensor], tf.Tensor]
    pseudo_labels_of: Callable[[tf.Tensor], Any]
    features: Features
    labels: tf.Tensor
    draws: tf.Tensor
    step: tf.Tensor
    averaged: AveragedFeatures | None = None
    weak_logits: tf.Tensor | None = None
    positions: tf.Tensor | None = None
    second_strong: tf.Tensor | None = None
    belongs: tf.Tensor | None = None


# What a head refuses that learns from all unlabeled images.
ALL_IMAGES: Mapping[str, str] = MappingProxyType(
    {"open_set": "it learns from all unlabeled images, those of no class included"}
)


class BalancedHead:
    """Base class of the rules that train a balanced classifier on the learner's features.

    The learner owns this second, linear classifier, adds `loss` to its own losses, and predicts
    with it instead of the first classifier. A head with several losses overrides `step_losses`. One
    that remembers something from step to step is a `keras.layers.Layer`, too; it is built from the
    shape of the logits `(batch, K)`.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.

    Attributes:
        asks_for: What the learner must provide, by name: "pseudo_labels_of_two_classifiers", the
            argument `pseudo_labels_of` of `loss`, with which the pseudo-labeler is called twice per
            step; "averaged_features", the argument `averaged` of `loss`, whose weak views then also
            give the features of `teaching_logits`; "positions" (the field of `HeadStep`);
            "joint_pass" (one pass of all views together).
        refuses: What the head cannot be combined with, by such a name, and the reason:
            "pseudo_labeler" (another than the linear one), "threshold" (another than a fixed one),
            "balance" (every other method against the imbalance of the labeled images), "open_set"
            (images that belong to no class; by default it is refused). One that does not refuse an
            open set leaves out the images that the field `belongs` of `HeadStep` says.
        loss_names: The names of its losses.
        strong_views: Strong views of each unlabeled image that it is made for, 1 or 2.

    Raises:
        ValueError: If `labeled_counts` is outside its range.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = ALL_IMAGES
    loss_names: ClassVar[tuple[str, ...]] = ("balanced_head_loss",)
    strong_views: ClassVar[int] = 1

    def __init__(self, labeled_counts: Sequence[int]):
        self.labeled_counts = checked_counts(labeled_counts)

    def loss(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        pseudo_labels_of: Callable[[tf.Tensor], Any],
        features: Features,
        labels: tf.Tensor,
        draws: tf.Tensor,
        step: tf.Tensor,
        averaged: AveragedFeatures | None = None,
    ) -> tf.Tensor:
        """Computes the loss of the balanced classifier.

        Args:
            classifier: The balanced classifier, from features to logits `(batch, K)`.
            pseudo_labels_of: Maps the probabilities of the weak views, float `(mu * batch, K)`, to
                their `daso_tf.pseudo_labels.PseudoLabels`.
            features: The features of the step's views.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            draws: float `(batch + mu * batch,)`, one random number per image, uniform in [0, 1).
            step: int scalar, the number of steps done before this one.
            averaged: The features of the averaged encoder, if the head asks for
                "averaged_features".

        Returns:
            A scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `loss`.")

    def step_losses(self, of: HeadStep) -> dict[str, tf.Tensor]:
        """Computes all losses of the balanced classifier; by default, `loss` is the only one.

        Args:
            of: What the head may use of the step.

        Returns:
            Scalars by their names, which are `loss_names`.
        """
        (name,) = self.loss_names
        arguments = (of.classifier, of.pseudo_labels_of, of.features, of.labels, of.draws, of.step)
        return {name: self.loss(*arguments, of.averaged)}

    def selected(self, weights: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Changes how strongly the learner teaches each pseudo-label.

        Args:
            weights: float `(mu * batch,)`, what the threshold selected.
            logits: float `(mu * batch, K)` of the weak views, by the learner's first classifier.

        Returns:
            float `(mu * batch,)`; by default `weights`.
        """
        return weights

    def teaching_logits(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        features: tf.Tensor,
        logits: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the logits from which the learner makes its pseudo-labels.

        Args:
            classifier: The balanced classifier, from features to logits `(batch, K)`.
            features: float `(mu * batch, D)` of the weak views of the unlabeled images.
            logits: float `(mu * batch, K)` of the same views, by the learner's first classifier.
            step: int scalar, the number of steps done before this one.

        Returns:
            float `(mu * batch, K)`; by default `logits`.
        """
        return logits

    def learns_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns whether the head learns in a step, bool scalar; by default in every step.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        return tf.constant(True)

    def answers_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns whether the head makes the predictions after a number of steps; bool scalar.

        Args:
            step: int scalar, the number of steps done. By default it makes them from the start.
        """
        return tf.constant(True)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this head."""
        return {"labeled_counts": self.labeled_counts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Creates the head from the result of `get_config`."""
        return cls(**config)
