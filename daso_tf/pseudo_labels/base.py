"""What every pseudo-labeler is: the answer to "what should an unlabeled image be taught?"."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import keras
import tensorflow as tf

# The refusal of pseudo-labelers that remember predictions.
ONE_CLASSIFIER = MappingProxyType(
    {
        "pseudo_labels_of_two_classifiers": (
            "it remembers the predictions of one classifier, and there are two"
        )
    }
)


class PseudoLabels(NamedTuple):
    """The pseudo-labels of one unlabeled batch.

    Attributes:
        linear: int64 `(batch,)`, the class that the linear classifier says.
        semantic: int64 `(batch,)`, the class of the nearest prototype; -1 where there is none.
        final: int64 `(batch,)`, the class that the image is taught.
        confidence: float32 `(batch,)` in [0, 1], the probability of the final class.
        target: float32 `(batch, K)`, the distribution behind `final`; rows sum to 1.
    """

    linear: tf.Tensor
    semantic: tf.Tensor
    final: tf.Tensor
    confidence: tf.Tensor
    target: tf.Tensor


class PseudoLabeler(keras.layers.Layer):
    """The component that turns predictions for unlabeled images into pseudo-labels.

    In every step a learner calls, in this order: `observe` (if the pseudo-labeler asks for
    "labeled_features"), the layer itself, `with_margins` (if it asks for "margins"),
    `auxiliary_losses`, `update`. What a pseudo-labeler remembers from step to step is a variable
    of this layer, created in `build`. Every way of saving the model saves it.

    Attributes:
        asks_for: What the learner must provide, by name: "labeled_features" (calls of `observe`
            with the EMA encoder's features of the labeled views), "positions" (the argument
            `positions` of `call`), "margins" (a consistency loss on the logits that
            `with_margins` returns).
        refuses: What the pseudo-labeler cannot be combined with, by name, and the reason: "xla",
            or "pseudo_labels_of_two_classifiers", which a balanced head asks for.
        loss_names: Names of the losses that `auxiliary_losses` returns.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})
    loss_names: ClassVar[tuple[str, ...]] = ()

    # Pseudo-labels and what is remembered of them stay in float32 under every dtype policy.
    def __init__(self, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)

    def observe(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        """Takes in the EMA encoder's features of the labeled views.

        Args:
            features: float `(batch, D)`.
            labels: int `(batch,)`, classes in 0..K-1.
        """

    def call(self, linear_target, features, step, positions=None) -> PseudoLabels:
        """Makes the pseudo-labels of a batch; no gradient flows through them.

        Args:
            linear_target: float `(batch, K)`, what the learner predicts by its linear classifier:
                probabilities, possibly averaged over views and sharpened; rows sum to 1.
            features: float `(batch, D)` behind the prediction.
            step: int scalar, the number of steps done before this one.
            positions: int64 `(batch,)`, which of all unlabeled images these are; None unless the
                pseudo-labeler asks for "positions".

        Returns:
            A `PseudoLabels`.
        """
        raise ValueError(f"{type(self).__name__} does not say how pseudo-labels are made: `call`.")

    def with_margins(self, logits: tf.Tensor) -> tf.Tensor:
        """Changes the logits that are taught, so that the loss has margins between the classes.

        Args:
            logits: float `(batch, K)` of the view that is taught, which carry the gradient.

        Returns:
            float `(batch, K)`; the same where the pseudo-labeler wants no margins.
        """
        return logits

    def auxiliary_losses(
        self, weak_features: tf.Tensor, strong_features: tf.Tensor, step: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Computes losses that the pseudo-labeler adds, weighted, by name.

        Args:
            weak_features: float `(batch, D)` of the weak views.
            strong_features: float `(batch, D)` of the strong views, which carry the gradient.
            step: int scalar, the number of steps done before this one.

        Returns:
            Scalars by the name they have in the logs; the same names in every step.
        """
        return {}

    def update(self, pseudo_labels: PseudoLabels, step: tf.Tensor) -> None:
        """Remembers this step's pseudo-labels, all of them, once at the end of the step."""


def from_target(target: tf.Tensor, linear: tf.Tensor, semantic: tf.Tensor) -> PseudoLabels:
    """Completes pseudo-labels from their final target distribution."""
    return PseudoLabels(
        linear=linear,
        semantic=semantic,
        final=tf.argmax(target, axis=-1),
        confidence=tf.reduce_max(target, axis=-1),
        target=target,
    )
