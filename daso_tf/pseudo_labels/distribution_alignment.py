"""Distribution alignment: scales predictions until their mean is a given class distribution."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_distribution, checked_number, checked_whole_number
from daso_tf.pseudo_labels.pseudo_labeler import (
    TWO_CLASSIFIERS,
    PseudoLabeler,
    PseudoLabels,
    add_distribution,
    checked_num_classes,
)

_TINY = 1e-6  # avoids a division by zero for classes without predictions or without a share


@keras.saving.register_keras_serializable(package="daso_tf")
class DistributionAlignment(keras.layers.Layer):
    """Scales predictions by the ratio of a target class distribution to the mean prediction.

    A prediction p becomes `p * (target^t / sum(target^t)) / mean`, scaled to sum to 1. `mean` is
    the mean prediction of the last `window` batches, including this one. Every call counts as one
    batch.

    Args:
        target_distribution: K numbers of at least 0, in any scale, such as the labeled images of
            each class.
        temperature: t, in [0, 1]: 1 uses the target distribution as it is, 0 a uniform one. CReST+
            decreases it from generation to generation.
        window: Number of batches to average, at least 1.
        estimated: Whether the target distribution is only the first one, which estimates during
            training replace (`set_class_distribution`).
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Input shape: float `(batch, K)`, rows sum to 1. Output shape: the same.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> alignment = DistributionAlignment([1, 1])
    >>> aligned = alignment(tf.constant([[0.9, 0.1], [0.7, 0.3]]))
    >>> [f"{share:.3f}" for share in aligned[1]]
    ['0.368', '0.632']

    Reference:
        Berthelot et al., "ReMixMatch", ICLR 2020, section 3.1; the temperature: Wei et al.,
        "CReST", CVPR 2021, section 3.3.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset({"predictions_not_aligned"})

    def __init__(
        self,
        target_distribution: Sequence[float],
        temperature: float = 1.0,
        window: int = 128,
        estimated: bool = False,
        dtype: Any = "float32",
        **kwargs: Any,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.target_distribution = checked_distribution("target_distribution", target_distribution)
        self.temperature = checked_number("temperature", temperature, least=0, most=1)
        self.window = checked_whole_number("window", window, least=1)
        self.estimated = bool(estimated)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory of mean predictions.

        Args:
            input_shape: The shape of the predictions, `(batch, K)`.
        """
        num_classes = input_shape[-1]
        checked_num_classes("target_distribution", self.target_distribution, num_classes)
        self.batch_means = self.add_weight(
            name="batch_means",
            shape=(self.window, num_classes),
            initializer="zeros",
            trainable=False,
        )
        self.batches_seen = self.add_weight(
            name="batches_seen", shape=(), initializer="zeros", trainable=False, dtype="int64"
        )
        if self.estimated:
            self.estimated_distribution = add_distribution(self, self.target_distribution)
        self.built = True

    def set_class_distribution(self, shares: np.ndarray) -> None:
        """Takes an estimate of the class distribution of the unlabeled images, if `estimated`.

        Args:
            shares: float `(K,)` of at least 0, summing to 1.
        """
        if self.estimated:
            self.estimated_distribution.assign(shares)

    def call(self, probabilities: tf.Tensor, belongs: tf.Tensor | None = None) -> tf.Tensor:
        """Remembers the mean of a batch of predictions and aligns them.

        Args:
            probabilities: float `(batch, K)`, rows sum to 1.
            belongs: float `(batch,)`, 0 for images that are left out of the mean, else 1; None
                leaves none out.

        Returns:
            float32 `(batch, K)`, rows sum to 1. No gradient flows through them.
        """
        probabilities = tf.stop_gradient(tf.cast(probabilities, tf.float32))
        seen = tf.convert_to_tensor(self.batches_seen)
        place = tf.cast(seen % self.window, tf.int32)
        if belongs is None:
            batch_mean = replicas.mean(tf.reduce_mean(probabilities, axis=0, keepdims=True))
        else:
            total = tf.reduce_sum(belongs[:, None] * probabilities, axis=0, keepdims=True)
            total, count = replicas.total([total, tf.reduce_sum(belongs)])
            batch_mean = tf.math.divide_no_nan(total, count)  # the scale of `predicted` cancels out
        means = tf.tensor_scatter_nd_update(
            tf.convert_to_tensor(self.batch_means), place[None, None], batch_mean
        )
        self.batch_means.assign(means)
        self.batches_seen.assign(seen + 1)

        # Empty places hold zeros, so the sum over the whole buffer is right.
        filled = tf.cast(tf.minimum(seen + 1, self.window), tf.float32)
        predicted = tf.reduce_sum(means, axis=0) / filled
        aligned = probabilities * (self._target() + _TINY) / (predicted + _TINY)
        return aligned / tf.reduce_sum(aligned, axis=-1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "target_distribution": list(self.target_distribution),
            "temperature": self.temperature,
            "window": self.window,
            "estimated": self.estimated,
        }

    def _target(self) -> tf.Tensor:
        if self.estimated:
            target = tf.convert_to_tensor(self.estimated_distribution) ** self.temperature
            return target / tf.reduce_sum(target)
        target = np.array(self.target_distribution) / sum(self.target_distribution)
        target = target**self.temperature
        return tf.constant(target / target.sum(), tf.float32)


@keras.saving.register_keras_serializable(package="daso_tf")
class AlignedPseudoLabeler(PseudoLabeler):
    """Aligns the learner's predictions to a class distribution.

    Args:
        target_distribution: K numbers of at least 0, in any scale: the class distribution of the
            unlabeled images or, if it is unknown, of the labeled images.
        temperature: In [0, 1], as for `DistributionAlignment`.
        window: At least 1, as for `DistributionAlignment`.
        estimated: As for `DistributionAlignment`.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = AlignedPseudoLabeler([1, 1])
    >>> labeler.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> labels = labeler(tf.constant([[0.9, 0.1], [0.7, 0.3]]), tf.zeros((2, 4)), step=0)
    >>> labels.linear.numpy().tolist(), labels.final.numpy().tolist()
    ([0, 0], [0, 1])

    Reference:
        Wei et al., "CReST: A Class-Rebalancing Self-Training Framework for Imbalanced
        Semi-Supervised Learning", CVPR 2021, section 3.3: alignment in FixMatch.
    """

    # Predictions are aligned first and sharpened then.
    asks_for = frozenset({"unsharpened_predictions"})
    refuses = MappingProxyType(
        {
            **TWO_CLASSIFIERS,
            "predictions_not_aligned": "the predictions would be aligned twice; "
            "--nodistribution_alignment (distribution_alignment=None) aligns them once",
        }
    )

    def __init__(
        self,
        target_distribution: Sequence[float],
        temperature: float = 1.0,
        window: int = 128,
        estimated: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.alignment = DistributionAlignment(
            target_distribution, temperature, window, estimated, name="alignment"
        )

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory of mean predictions; see `PseudoLabeler`."""
        logits_shape, _ = input_shape
        self.alignment.build(logits_shape)
        self.built = True

    def set_class_distribution(self, shares: np.ndarray) -> None:
        """Takes an estimate, if it is `estimated`; see `PseudoLabeler`."""
        self.alignment.set_class_distribution(shares)

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        aligned = self.alignment(linear_target, belongs)
        return PseudoLabels.from_target(aligned, linear=tf.argmax(linear_target, axis=-1))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "target_distribution": list(self.alignment.target_distribution),
            "temperature": self.alignment.temperature,
            "window": self.alignment.window,
            "estimated": self.alignment.estimated,
        }
