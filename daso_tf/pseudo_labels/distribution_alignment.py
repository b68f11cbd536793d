"""Distribution alignment: predictions scaled until their mean is the class distribution wanted."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.pseudo_labels.base import (
    ONE_CLASSIFIER,
    PseudoLabeler,
    PseudoLabels,
    from_target,
)

_TINY = 1e-6  # keeps classes without a prediction, or without a share, from dividing by zero


@keras.saving.register_keras_serializable(package="daso_tf")
class DistributionAlignment(keras.layers.Layer):
    """Scales predictions by the class distribution wanted over the one predicted lately.

    A prediction p becomes `p * (target^t / sum(target^t)) / mean`, scaled to sum to 1, where
    `mean` is that of the last batches, this one included. Every call is remembered as a batch.

    Args:
        target_distribution: K numbers of at least 0, in any scale: the class distribution wanted,
            such as the labeled images of each class.
        temperature: t, in [0, 1]: 1 takes the distribution as it is, 0 a uniform one. CReST+ lets
            it fall from one generation to the next.
        window: Batches remembered, at least 1.

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

    def __init__(
        self,
        target_distribution: Sequence[float],
        temperature: float = 1.0,
        window: int = 128,
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.target_distribution = tuple(float(share) for share in target_distribution)
        if len(self.target_distribution) < 2 or not (
            min(self.target_distribution) >= 0 and 0 < sum(self.target_distribution) < np.inf
        ):
            raise ValueError(
                "target_distribution must be one number of at least 0 for each of two classes or "
                f"more, not all of them 0, not {list(target_distribution)}."
            )
        if not 0 <= temperature <= 1:
            raise ValueError(f"temperature must be in [0, 1], not {temperature}.")
        if window < 1:
            raise ValueError(f"window must be at least 1 batch, not {window}.")
        self.temperature = float(temperature)
        self.window = int(window)

    def build(self, input_shape):
        """Makes the memory, from the shape of the predictions `(batch, K)`."""
        num_classes = len(self.target_distribution)
        if input_shape[-1] != num_classes:
            raise ValueError(
                f"target_distribution has {num_classes} classes, the predictions {input_shape[-1]}."
            )
        self.batch_means = self.add_weight(
            name="batch_means",
            shape=(self.window, num_classes),
            initializer="zeros",
            trainable=False,
        )
        self.batches_seen = self.add_weight(
            name="batches_seen", shape=(), initializer="zeros", trainable=False, dtype="int64"
        )
        self.built = True

    def call(self, probabilities):
        """Remembers a batch of predictions and aligns it; no gradient flows through."""
        probabilities = tf.stop_gradient(tf.cast(probabilities, tf.float32))
        seen = tf.convert_to_tensor(self.batches_seen)
        place = tf.cast(seen % self.window, tf.int32)
        batch_mean = replicas.mean(tf.reduce_mean(probabilities, axis=0, keepdims=True))
        means = tf.tensor_scatter_nd_update(
            tf.convert_to_tensor(self.batch_means), place[None, None], batch_mean
        )
        self.batch_means.assign(means)
        self.batches_seen.assign(seen + 1)

        # Places never written hold zeros, so the sum over the whole ring is right.
        filled = tf.cast(tf.minimum(seen + 1, self.window), tf.float32)
        predicted = tf.reduce_sum(means, axis=0) / filled
        target = np.array(self.target_distribution) / sum(self.target_distribution)
        target = target**self.temperature
        target = tf.constant(target / target.sum(), tf.float32)
        aligned = probabilities * (target + _TINY) / (predicted + _TINY)
        return aligned / tf.reduce_sum(aligned, axis=-1, keepdims=True)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "target_distribution": list(self.target_distribution),
            "temperature": self.temperature,
            "window": self.window,
        }


@keras.saving.register_keras_serializable(package="daso_tf")
class AlignedPseudoLabeler(PseudoLabeler):
    """Pseudo-labels that are the learner's prediction, aligned to a class distribution.

    Args:
        target_distribution: K numbers of at least 0, in any scale: the class distribution of the
            unlabeled images, or where it is not known of the labeled ones.
        temperature: As for `DistributionAlignment`.
        window: As for `DistributionAlignment`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = AlignedPseudoLabeler([1, 1])
    >>> labeler.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> labels = labeler(tf.constant([[0.9, 0.1], [0.7, 0.3]]), tf.zeros((2, 4)), step=0)
    >>> labels.linear.numpy().tolist(), labels.final.numpy().tolist()
    ([0, 0], [0, 1])

    Reference:
        Wei et al., "CReST", CVPR 2021, section 3.3: alignment within FixMatch.
    """

    refuses = ONE_CLASSIFIER

    def __init__(
        self,
        target_distribution: Sequence[float],
        temperature: float = 1.0,
        window: int = 128,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.alignment = DistributionAlignment(
            target_distribution, temperature, window, name="alignment"
        )

    def build(self, input_shape):
        """Makes the memory, from the shapes of logits `(batch, K)` and features `(batch, D)`."""
        logits_shape, _ = input_shape
        self.alignment.build(logits_shape)
        self.built = True

    def call(self, linear_target, features, step, positions=None) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        linear = tf.argmax(linear_target, axis=-1)
        return from_target(
            self.alignment(linear_target), linear=linear, semantic=-tf.ones_like(linear)
        )

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "target_distribution": list(self.alignment.target_distribution),
            "temperature": self.alignment.temperature,
            "window": self.alignment.window,
        }
