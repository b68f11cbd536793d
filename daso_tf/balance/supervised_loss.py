"""The supervised loss of every learner: by default plain cross-entropy, without re-balancing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import keras
import tensorflow as tf

from daso_tf.platform import replicas


@keras.saving.register_keras_serializable(package="daso_tf")
class SupervisedLoss:
    """Mean cross-entropy of the labeled images.

    To re-balance the classes, write a subclass that overrides `class_losses` (the loss of an image
    for each class it could have) or `class_weights` (the weight of each class in the mean).
    Learners that mix images, such as MixMatch, have soft labels: the loss of an image is the mean
    of `class_losses`, weighted by the label. Hard labels are the special case of one class.

    Attributes:
        asks_for: What the learner must provide, by name.
        refuses: What the loss cannot be combined with, by such a name, and the reason.
        loss_names: Names of the losses that it adds to the supervised loss.

    Example:

    >>> loss = SupervisedLoss()
    >>> round(float(loss(tf.constant([1]), tf.zeros((1, 2)), step=0)), 4)
    0.6931
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})
    loss_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        renamed = {"of_every_class": "class_losses", "weight_of_every_class": "class_weights"}
        for before, now in renamed.items():
            if before in vars(cls):  # it would never be called
                raise TypeError(f"{cls.__name__}.{before} must be named {now} since version 0.2.")

    def class_losses(self, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Computes the loss of each image for each class that its label could be.

        Args:
            logits: float `(batch, K)`.
            step: int scalar, the number of steps done before this one.

        Returns:
            float `(batch, K)`.
        """
        return -tf.nn.log_softmax(logits)

    def class_weights(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the weight of each class in the mean over the batch.

        Args:
            step: int scalar, the number of steps done before this one.

        Returns:
            float `(K,)`, or a scalar if all classes have the same weight.
        """
        return tf.constant(1.0)

    def __call__(
        self,
        labels: tf.Tensor,
        logits: tf.Tensor,
        step: tf.Tensor,
        image_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Computes the weighted mean loss of a batch.

        Args:
            labels: int `(batch,)`, classes in 0..K-1; or float `(batch, K)`, soft labels whose
                rows sum to 1.
            logits: float `(batch, K)`.
            step: int scalar, the number of steps done before this one.
            image_weights: float `(batch,)`, factors of the losses of the images, as a threshold
                may return them; None for 1.

        Returns:
            A scalar.
        """
        labels = tf.convert_to_tensor(labels)
        if labels.dtype.is_integer:
            labels = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        weights = labels * tf.cast(self.class_weights(step), labels.dtype)
        total_weight = replicas.mean(tf.reduce_sum(weights))
        if image_weights is not None:
            weights *= tf.cast(image_weights, weights.dtype)[:, None]
        return tf.reduce_sum(weights * self.class_losses(logits, step)) / total_weight

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this loss."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Creates the loss from the result of `get_config`."""
        return cls(**config)
