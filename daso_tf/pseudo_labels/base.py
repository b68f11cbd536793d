"""What every pseudo-labeler is: the answer to "what should an unlabeled image be taught?"."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf


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

    A learner takes one and calls it in this order in every step: `observe` (only if
    `observes_labeled_features`), the layer itself, `with_margins` (only if `needs_margins`),
    `auxiliary_losses`, `update`. Whatever a pseudo-labeler must remember is a variable of this
    layer, made in `build`, so that every way of saving the model saves it.
    """

    # Whether the learner must map the labeled views with the EMA encoder and call `observe`.
    observes_labeled_features = False
    # Whether `call` remembers the predictions that it gets, so that only those of one classifier,
    # once a step, may be given to it.
    remembers_predictions = False
    # Whether `call` has to know which images these are.
    needs_positions = False
    # Whether the logits that are taught have to be those of `with_margins`.
    needs_margins = False
    # Why a step with it cannot be compiled by XLA; None where it can.
    refuses_jit_compile: str | None = None
    # Names of the losses that `auxiliary_losses` gives back.
    auxiliary_loss_names: tuple[str, ...] = ()

    # Whatever Keras's dtype policy is, what is remembered and taught is float32.
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
            positions: int64 `(batch,)`, which of all unlabeled images these are; given where
                `needs_positions`, else None.

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
