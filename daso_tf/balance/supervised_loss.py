"""The supervised loss of every learner: plain cross-entropy, where nothing is countered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import keras
import tensorflow as tf

from daso_tf.platform import replicas


@keras.saving.register_keras_serializable(package="daso_tf")
class SupervisedLoss:
    """Mean cross-entropy of the labeled images, each class as it comes.

    What counters imbalance in the supervised loss is a subclass with another `of_every_class`
    (what an image would cost if it were of each class) or `weight_of_every_class` (what it would
    count in the mean). Learners that mix images (MixMatch) have several classes an image, so one
    statement serves hard and soft labels alike.

    Example:

    >>> loss = SupervisedLoss()
    >>> round(float(loss(tf.constant([1]), tf.zeros((1, 2)), step=0)), 4)
    0.6931
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})
    loss_names: ClassVar[tuple[str, ...]] = ()

    def of_every_class(self, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Computes what each image costs if its class is k.

        Args:
            logits: float `(batch, K)`.
            step: int scalar, the number of steps done before this one.

        Returns:
            float `(batch, K)`.
        """
        return -tf.nn.log_softmax(logits)

    def weight_of_every_class(self, step: tf.Tensor) -> tf.Tensor:
        """Returns what an image of each class counts in the mean over the batch.

        Args:
            step: int scalar, the number of steps done before this one.

        Returns:
            float `(K,)`, or a scalar where all classes count the same.
        """
        return tf.constant(1.0)

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Computes the weighted mean loss of a batch.

        Args:
            labels: int `(batch,)`, classes in 0..K-1; or float `(batch, K)`, shares that sum to 1.
            logits: float `(batch, K)`.
            step: int scalar, the number of steps done before this one.

        Returns:
            A scalar.
        """
        labels = tf.convert_to_tensor(labels)
        if labels.dtype.is_integer:
            labels = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        weights = labels * tf.cast(self.weight_of_every_class(step), labels.dtype)
        weight = replicas.mean(tf.reduce_sum(weights))
        return tf.reduce_sum(weights * self.of_every_class(logits, step)) / weight

    def get_config(self) -> dict:
        """Returns the arguments that make this loss again."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> SupervisedLoss:
        """Makes the loss from what `get_config` gave back."""
        return cls(**config)
