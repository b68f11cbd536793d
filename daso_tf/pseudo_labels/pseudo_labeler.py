"""Interface of the pseudo-labelers, which decide what an unlabeled image is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import keras
import tensorflow as tf

# What a pseudo-labeler that remembers predictions refuses.
TWO_CLASSIFIERS: Mapping[str, str] = MappingProxyType(
    {
        "pseudo_labels_of_two_classifiers": (
            "it remembers the predictions of one classifier, and there are two"
        )
    }
)


class PseudoLabels(NamedTuple):
    """The pseudo-labels of one unlabeled batch.

    Attributes:
        linear: int64 `(mu * batch,)`, the classes that the linear classifier predicts.
        semantic: int64 `(mu * batch,)`, the classes of the nearest prototypes; -1 if there are
            none.
        final: int64 `(mu * batch,)`, the classes that the images are taught.
        confidence: float32 `(mu * batch,)` in [0, 1], the probability of each final class.
        target: float32 `(mu * batch, K)`, the class distribution behind `final`; each row sums
            to 1.
    """

    linear: tf.Tensor
    semantic: tf.Tensor
    final: tf.Tensor
    confidence: tf.Tensor
    target: tf.Tensor

    @classmethod
    def from_target(
        cls, target: tf.Tensor, linear: tf.Tensor, semantic: tf.Tensor | None = None
    ) -> Self:
        """Creates pseudo-labels from a class distribution: its most probable class is taught.

        Args:
            target: float32 `(mu * batch, K)`; each row sums to 1.
            linear: int64 `(mu * batch,)`, the classes that the linear classifier predicts.
            semantic: int64 `(mu * batch,)`, the classes of the nearest prototypes, if there are
                any.

        Returns:
            The `PseudoLabels`.

        Example:

        >>> labels = PseudoLabels.from_target(tf.constant([[0.3, 0.7]]), linear=tf.constant([0]))
        >>> int(labels.final[0]), round(float(labels.confidence[0]), 3)
        (1, 0.7)
        """
        return cls(
            linear=linear,
            semantic=-tf.ones_like(linear) if semantic is None else semantic,
            final=tf.argmax(target, axis=-1),
            confidence=tf.reduce_max(target, axis=-1),
            target=target,
        )


class PseudoLabeler(keras.layers.Layer):
    """Base class of the layers that turn predictions for unlabeled images into pseudo-labels.

    In every step the learner calls, in this order: `observe` (if the pseudo-labeler asks for
    "labeled_features"), the layer itself, `with_margins` (if it asks for "margins"),
    `auxiliary_losses`, `update`. What a pseudo-labeler remembers from step to step is a variable
    of this layer, created in `build` from the shapes of the logits `(batch, K)` and the features
    `(batch, D)`. Every way of saving the model saves it.

    Args:
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Attributes:
        asks_for: What the learner must provide, by name: "labeled_features" (calls of `observe`),
            "positions" (the argument `positions` of `call`), "margins" (a consistency loss on the
            logits that `with_margins` returns).
        refuses: What the pseudo-labeler cannot be combined with, by name, and the reason: "xla"
            (compiling the step with XLA), "pseudo_labels_of_two_classifiers" (several calls per
            step, with the predictions of different classifiers).
        loss_names: Names of the losses that `auxiliary_losses` returns.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})
    loss_names: ClassVar[tuple[str, ...]] = ()

    # Pseudo-labels and what is remembered of them stay in float32 under every dtype policy.
    def __init__(self, dtype: Any = "float32", **kwargs: Any):
        super().__init__(dtype=dtype, **kwargs)

    def observe(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        """Receives the EMA encoder's features of the labeled views.

        Args:
            features: float `(batch, D)`.
            labels: int `(batch,)`, classes in 0..K-1.
        """

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels of a batch. No gradient flows through them.

        Args:
            linear_target: float `(mu * batch, K)`, the learner's prediction: the probabilities of
                its linear classifier, possibly averaged over views and sharpened; each row sums
                to 1.
            features: float `(mu * batch, D)`, the features of the views that were predicted.
            step: int scalar, the number of steps done before this one.
            positions: int `(mu * batch,)`, the positions of the batch's unlabeled images among
                all unlabeled images; needed if the pseudo-labeler asks for "positions".

        Returns:
            The `PseudoLabels`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `call`.")

    def with_margins(self, logits: tf.Tensor) -> tf.Tensor:
        """Changes the logits that are taught, so that the loss has margins between the classes.

        Args:
            logits: float `(mu * batch, K)` of the views that are taught; they carry the gradient.

        Returns:
            float `(mu * batch, K)`; by default `logits`.
        """
        return logits

    def auxiliary_losses(
        self, weak_features: tf.Tensor, strong_features: tf.Tensor, step: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Computes the losses that the pseudo-labeler adds to the learner's.

        Args:
            weak_features: float `(mu * batch, D)` of the weak views.
            strong_features: float `(mu * batch, D)` of the strong views; they carry the gradient.
            step: int scalar, the number of steps done before this one.

        Returns:
            Weighted scalars by their names in the logs, which are `loss_names`.
        """
        return {}

    def update(self, pseudo_labels: PseudoLabels, step: tf.Tensor) -> None:
        """Receives all pseudo-labels of the step, once at its end.

        Args:
            pseudo_labels: The `PseudoLabels` that the learner used.
            step: int scalar, the number of steps done before this one.
        """

    def image_weights(self, positions: tf.Tensor | None) -> tf.Tensor | None:
        """Returns how strongly a learner with soft pseudo-labels teaches each image.

        Args:
            positions: As for `call`.

        Returns:
            float `(mu * batch,)`, at least 0, with a mean of 1 over all unlabeled images; None, the
            default, for 1.
        """
        return None

    def image_memories(self) -> list[tf.Variable]:
        """Returns the variables with one entry per unlabeled image, in the order of the images.

        Where a run continues with other unlabeled images, the entry of each image moves with it. A
        new image has the initial value.
        """
        return []


def checked_num_classes(name: str, distribution: Sequence[float], num_classes: int) -> None:
    """Checks that a class distribution has one number for each class of the predictions.

    Args:
        name: Name of the argument that holds the distribution, for the message.
        distribution: Numbers by class.
        num_classes: K of the predictions.

    Raises:
        ValueError: If the numbers differ.
    """
    if len(distribution) != num_classes:
        raise ValueError(f"{name} has {len(distribution)} classes, the predictions {num_classes}.")
