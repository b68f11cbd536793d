"""Interface of the pseudo-labelers, which decide what an unlabeled image is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf

# What a pseudo-labeler that remembers predictions refuses.
TWO_CLASSIFIERS: Mapping[str, str] = MappingProxyType(
    {
        "pseudo_labels_of_two_classifiers": (
            "it remembers the predictions of one classifier, and there are two"
        )
    }
)

# What a pseudo-labeler refuses whose estimates are of all unlabeled images.
ALL_IMAGES: Mapping[str, str] = MappingProxyType(
    {"open_set": "its pseudo-labels depend on all unlabeled images, those of no class included"}
)

# What a pseudo-labeler refuses that counters the imbalance by its own losses.
OWN_LOSSES: Mapping[str, str] = MappingProxyType(
    {
        "balance": "each counters the imbalance by losses of its own, and a step has one of them",
        "threshold": "its losses are those of one confidence for all classes",
    }
)


class Logits(NamedTuple):
    """The logits of all views of a step.

    Attributes:
        labeled: float32 `(batch, K)`, of the weak views of the labeled images. They carry the
            gradient.
        weak: float32 `(mu * batch, K)`, of the weak views of the unlabeled images.
        strong: float32 `(mu * batch, K)` each, of one strong view or several of these images. They
            carry the gradient.
        strong_labeled: float32 `(batch, K)`, of strong views of the labeled images, if the
            pseudo-labeler asks for them. They carry the gradient.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: Sequence[tf.Tensor]
    strong_labeled: tf.Tensor | None = None


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
    "labeled_features"), the layer itself, `with_margins` (if it asks for "margins") or
    `step_losses` (if it asks for "step_losses"), `auxiliary_losses`, `update`. What a
    pseudo-labeler remembers from step to step is a variable of this layer, created in `build` from
    the shapes of the logits `(batch, K)` and the features `(batch, D)`. Every way of saving the
    model saves it.

    Args:
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Attributes:
        asks_for: What the learner must provide, by name: "labeled_features" (calls of `observe`),
            "positions" (the argument `positions` of `call`), "margins" (a consistency loss on the
            logits that `with_margins` returns), "step_losses" (the losses that `step_losses`
            returns, instead of the learner's), "joint_pass" (one pass of all views together),
            "strong_labeled" (strong views of the labeled images), "blank_image" (calls of
            `teaching_logits`, predictions without the bias for a blank image, and a separate pass
            of each set of views).
        refuses: What the pseudo-labeler cannot be combined with, by name, and the reason: "xla"
            (compiling the step with XLA), "pseudo_labels_of_two_classifiers" (several calls per
            step, with the predictions of different classifiers), "threshold" (another than a fixed
            one), "balance" (every other method against the imbalance of the labeled images),
            "open_set" (images that belong to no class; by default it is refused). One that does
            not refuse an open set has another argument `belongs` in `call` and `step_losses`, as
            in `auxiliary_losses`. For images of no class, the weights that `step_losses` receives
            are then 0, and the final pseudo-labels that `update` receives are -1.
        loss_names: Names of the losses that `auxiliary_losses` returns, and of those that
            `step_losses` returns in addition to the learner's.
        strong_views: Strong views of each unlabeled image that it is made for, 1 or 2.
        confidence: The threshold that it is made for, in [0, 1].
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = ALL_IMAGES
    loss_names: ClassVar[tuple[str, ...]] = ()
    strong_views: ClassVar[int] = 1
    confidence: ClassVar[float] = 0.95

    # Pseudo-labels and what is remembered of them stay in float32 under every dtype policy.
    def __init__(self, dtype: Any = "float32", **kwargs: Any):
        super().__init__(dtype=dtype, **kwargs)

    def observe(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        """Receives the EMA encoder's features of the labeled views.

        Args:
            features: float `(batch, D)`.
            labels: int `(batch,)`, classes in 0..K-1.
        """

    def teaching_logits(self, logits: tf.Tensor, bias: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns the logits whose probabilities `call` gets, if it asks for "blank_image".

        Args:
            logits: float `(mu * batch, K)` of the weak views.
            bias: float `(1, K)`, of a blank image, by the trained network in training mode.
            step: int scalar, the number of steps done before this one.

        Returns:
            float `(mu * batch, K)`; by default without the bias.
        """
        return debiased(logits, bias)

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

    def step_losses(
        self,
        logits: Logits,
        labels: tf.Tensor,
        pseudo_labels: PseudoLabels,
        weights: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Computes the losses of a step, instead of the learner, if it asks for "step_losses".

        Args:
            logits: The `Logits` of all views.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            pseudo_labels: The `PseudoLabels` that `call` returned.
            weights: float `(mu * batch,)`, 1 where the confidence reaches the threshold, else 0;
                0 for images that belong to no class.
            step: int scalar, the number of steps done before this one.
            positions: As for `call`.
            belongs: As for `auxiliary_losses`. It is given only with an open set.

        Returns:
            Scalars by their names in the logs: "supervised_loss", "consistency_loss" without its
            weight, and those of `loss_names`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `step_losses`.")

    def auxiliary_losses(
        self,
        weak_features: tf.Tensor,
        strong_features: tf.Tensor,
        step: tf.Tensor,
        belongs: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Computes the losses that the pseudo-labeler adds to the learner's.

        Args:
            weak_features: float `(mu * batch, D)` of the weak views.
            strong_features: float `(mu * batch, D)` of the strong views; they carry the gradient.
            step: int scalar, the number of steps done before this one.
            belongs: float `(mu * batch,)`, 0 for images that belong to no class, else 1; None
                without an open set.

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

    def set_class_distribution(self, shares: np.ndarray) -> None:
        """Receives an estimate of the class distribution of the unlabeled images, between steps.

        Args:
            shares: float `(K,)` of at least 0, summing to 1.
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


def soft_consistency(
    targets: tf.Tensor, weights: tf.Tensor, logits: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Computes the consistency loss with class distributions as targets.

    Args:
        targets: float `(mu * batch, K)`; each row sums to 1.
        weights: float `(mu * batch,)`, at least 0, how strongly each is taught.
        logits: float `(mu * batch, K)` each, of the strong views.

    Returns:
        A scalar: the mean over all strong views of weight times cross-entropy.

    Example:

    >>> loss = soft_consistency(tf.constant([[0.5, 0.5]]), tf.ones(1), [tf.zeros((1, 2))])
    >>> round(float(loss), 4)
    0.6931
    """
    of_views = [
        tf.reduce_mean(weights * tf.nn.softmax_cross_entropy_with_logits(targets, of_view))
        for of_view in logits
    ]
    return tf.add_n(of_views) / len(of_views)


def debiased(logits: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns logits without those of a blank image; no gradient flows through the bias.

    Args:
        logits: float `(batch, K)`.
        bias: float `(1, K)`.

    Returns:
        float `(batch, K)`.

    Example:

    >>> debiased(tf.constant([[2.0, 1.0]]), tf.constant([[3.0, 0.0]])).numpy().tolist()
    [[-1.0, 1.0]]
    """
    return logits - tf.stop_gradient(bias)


def add_distribution(layer: keras.layers.Layer, shares: Sequence[float]) -> tf.Variable:
    """Adds a class distribution to what a layer remembers, for estimates of it to replace.

    Args:
        layer: The layer, in its `build`.
        shares: K numbers of at least 0, in any scale: the first one.
    """
    first = np.asarray(shares, np.float64) / np.sum(shares)
    return layer.add_weight(
        name="estimated_distribution",
        shape=first.shape,
        initializer=keras.initializers.Constant(first),
        trainable=False,
    )


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
