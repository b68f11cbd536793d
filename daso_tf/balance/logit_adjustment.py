"""Logit adjustment: the log of the class prior corrects the logits in training or at test time.

A classifier that is trained with the prior added to its logits predicts as if the classes were
balanced. A classifier that is trained without it does so once the prior is subtracted at test time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.supervised_loss import SupervisedLoss
from daso_tf.platform.checks import checked_counts, checked_number

Logits = TypeVar("Logits", np.ndarray, tf.Tensor)


@keras.saving.register_keras_serializable(package="daso_tf")
class LogitAdjustedLoss(SupervisedLoss):
    """Cross-entropy of the logits plus `tau * log(class prior)`.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        tau: Strength of the adjustment, above 0. 1 makes the classifier predict as if the classes
            were balanced.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> loss = LogitAdjustedLoss([3, 1])
    >>> round(float(loss(tf.constant([0]), tf.zeros((1, 2)), step=0)), 4)  # -log(3 / 4)
    0.2877

    Reference:
        Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10.
    """

    def __init__(self, labeled_counts: Sequence[int], tau: float = 1.0):
        self.labeled_counts = checked_counts(labeled_counts)
        self.tau = checked_number("tau", tau, above=0)

    def class_losses(self, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Computes the loss of each image for each class; see `SupervisedLoss.class_losses`."""
        return super().class_losses(adjusted(logits, self.labeled_counts, -self.tau), step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this loss."""
        return {"labeled_counts": self.labeled_counts, "tau": self.tau}


def adjusted(logits: Logits, labeled_counts: Sequence[int], tau: float = 1.0) -> Logits:
    """Subtracts `tau * log(class prior)` from logits.

    Use it at test time, on the logits of a classifier that was trained without logit adjustment.

    Args:
        logits: float `(..., K)`, logits or log-probabilities; a NumPy array or a TensorFlow tensor.
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        tau: Strength of the adjustment. A negative value adds the prior, which undoes an earlier
            adjustment or is the adjustment in training.

    Returns:
        Logits of the same shape and kind. Their softmax gives the adjusted probabilities.

    Example:

    >>> int(adjusted(np.log([0.6, 0.4]), labeled_counts=[30, 10]).argmax())  # 0.6 / 30 < 0.4 / 10
    1

    Reference:
        Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 9.
    """
    prior = log_prior(labeled_counts)
    if tf.is_tensor(logits):
        prior = tf.constant(prior, logits.dtype)
    return logits - tau * prior


def log_prior(labeled_counts: Sequence[int]) -> np.ndarray:
    """Returns the logarithm of each class's share of the labeled images.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.

    Returns:
        float64 `(K,)`, at most 0.

    Example:

    >>> np.exp(log_prior([3, 1])).round(6).tolist()
    [0.75, 0.25]
    """
    counts = np.asarray(labeled_counts, np.float64)
    return np.log(counts / counts.sum())
