"""Class-balanced loss: weights classes by the inverse of their effective number of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.supervised_loss import SupervisedLoss
from daso_tf.platform.checks import checked_counts, checked_number


@keras.saving.register_keras_serializable(package="daso_tf")
class ClassBalancedLoss(SupervisedLoss):
    """Cross-entropy, weighted by the inverse of each class's effective number of images.

    The loss is the plain mean over the batch of the weighted cross-entropies; the mean weight of
    the classes is 1.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        beta: Controls the weights, in [0, 1). 0 gives every class the same weight. Near 1, the
            weight of a class is inversely proportional to its number of images.

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

    def __init__(self, labeled_counts: Sequence[int], beta: float = 0.999):
        self.labeled_counts = checked_counts(labeled_counts)
        self.beta = checked_number("beta", beta, least=0, below=1)

    def class_losses(self, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Computes the loss of each image for each class; see `SupervisedLoss.class_losses`."""
        weights = class_balanced_weights(self.labeled_counts, self.beta)
        return tf.constant(weights, logits.dtype) * super().class_losses(logits, step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this loss."""
        return {"labeled_counts": self.labeled_counts, "beta": self.beta}


def class_balanced_weights(labeled_counts: Sequence[int], beta: float) -> np.ndarray:
    """Computes the inverse of each class's effective number of images.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        beta: In [0, 1).

    Returns:
        float64 `(K,)`: `(1 - beta) / (1 - beta^n_k)`, scaled to a mean of 1.
    """
    weights = (1 - beta) / (1 - beta ** np.array(labeled_counts, np.float64))
    return weights / weights.mean()
