"""Class-balanced loss: what rare classes cost counts for more."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.supervised_loss import SupervisedLoss
from daso_tf.platform.checks import checked_counts


@keras.saving.register_keras_serializable(package="daso_tf")
class ClassBalancedLoss(SupervisedLoss):
    """Cross-entropy weighted by the inverse of each class's effective number of images.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        beta: How much of what one image of a class adds the next one adds, in [0, 1): with 0 all
            classes weigh the same, near 1 each weighs the inverse of its images.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> loss = ClassBalancedLoss([3, 1], beta=0.5)  # effective numbers 1.75 and 1
    >>> round(float(loss(tf.constant([0]), tf.zeros((1, 2)), step=0)), 4)  # 8 / 11 of log 2
    0.5041

    Reference:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
        section 4.
    """

    def __init__(self, labeled_counts: list[int], beta: float = 0.999):
        self.labeled_counts = checked_counts(labeled_counts)
        self.beta = checked_beta(beta)

    def of_every_class(self, logits, step):
        """Computes what each image costs if its class is k; see `SupervisedLoss`."""
        weights = class_balanced_weights(self.labeled_counts, self.beta)
        return tf.constant(weights, logits.dtype) * super().of_every_class(logits, step)

    def get_config(self):
        """Returns the arguments that make this loss again."""
        return {"labeled_counts": self.labeled_counts, "beta": self.beta}


def class_balanced_weights(labeled_counts: tuple[int, ...], beta: float) -> np.ndarray:
    """Computes the inverse of each class's effective number of images.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        beta: In [0, 1).

    Returns:
        float64 `(K,)`: `(1 - beta) / (1 - beta^n_k)`, scaled to sum to K.
    """
    weights = (1 - beta) / (1 - beta ** np.array(labeled_counts, np.float64))
    return weights / weights.mean()


def checked_beta(beta: float) -> float:
    """Returns beta, or raises a ValueError where it is outside [0, 1)."""
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), not {beta}.")
    return float(beta)
