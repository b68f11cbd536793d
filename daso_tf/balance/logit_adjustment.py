"""Logit adjustment: the classes' prior belongs to the loss, not to the classifier."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.supervised_loss import SupervisedLoss
from daso_tf.platform.checks import checked_counts


@keras.saving.register_keras_serializable(package="daso_tf")
class LogitAdjustedLoss(SupervisedLoss):
    """Cross-entropy of logits to which `tau * log(class prior)` is added.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        tau: Strength of the adjustment, above 0; 1 makes the classifier's logits those of
            balanced classes.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> loss = LogitAdjustedLoss([3, 1])
    >>> round(float(loss(tf.constant([0]), tf.zeros((1, 2)), step=0)), 4)  # -log(3 / 4)
    0.2877

    Reference:
        Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10.
    """

    def __init__(self, labeled_counts: list[int], tau: float = 1.0):
        if not tau > 0:
            raise ValueError(f"tau must be above 0, not {tau}; SupervisedLoss() adjusts nothing.")
        self.labeled_counts = checked_counts(labeled_counts)
        self.tau = float(tau)

    def of_every_class(self, logits, step):
        """Computes what each image costs if its class is k; see `SupervisedLoss`."""
        prior = tf.constant(log_prior(self.labeled_counts), logits.dtype)
        return super().of_every_class(logits + self.tau * prior, step)

    def get_config(self):
        """Returns the arguments that make this loss again."""
        return {"labeled_counts": self.labeled_counts, "tau": self.tau}


def log_prior(labeled_counts: Sequence[int]) -> np.ndarray:
    """Returns the logarithm of each class's share of the labeled images, float64 `(K,)`.

    Subtracted from the logits of a classifier that was trained as the classes come, it makes them
    those of balanced classes (Menon et al., ICLR 2021, equation 9).

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.

    Example:

    >>> np.exp(log_prior([3, 1])).round(6).tolist()
    [0.75, 0.25]
    """
    counts = np.asarray(labeled_counts, np.float64)
    return np.log(counts / counts.sum())
