"""LDAM-DRW: larger margins for rare classes, and class weights late in the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.class_balanced import class_balanced_weights
from daso_tf.balance.supervised_loss import SupervisedLoss
from daso_tf.platform.checks import checked_counts, checked_number, checked_whole_number


@keras.saving.register_keras_serializable(package="daso_tf")
class LDAMLoss(SupervisedLoss):
    """Cross-entropy with a margin for each class and deferred re-weighting (LDAM-DRW).

    The margin of class k is proportional to `n_k^(-1/4)`; the rarest class has `max_margin`. It is
    subtracted from the logit of an image's own class. After `reweight_after` steps, the mean over
    the batch weighs images by the class-balanced weights of their classes.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        max_margin: The margin of the rarest class, above 0.
        scale: Factor of all logits, above 0. LDAM's authors use 30 with a normalized classifier,
            whose logits are cosines of at most 1. A linear classifier, as here, learns the scale of
            its logits. DASO's comparison uses 30 with a linear classifier and a learning-rate
            warm-up; without the warm-up, training tends to diverge.
        reweight_after: Steps before the classes are weighted, at least 0. DASO's comparison weighs
            them in the last fifth of its 250,000 steps.
        beta: Controls the weights, in [0, 1), as for `ClassBalancedLoss`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> loss = LDAMLoss([16, 1], max_margin=1.0, scale=1.0)  # margins 0.5 and 1
    >>> round(float(loss(tf.constant([0]), tf.constant([[0.5, 0.0]]), step=0)), 4)  # log 2
    0.6931

    Reference:
        Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019, section 3.2 and algorithm 1.
    """

    def __init__(
        self,
        labeled_counts: Sequence[int],
        max_margin: float = 0.5,
        scale: float = 1.0,
        reweight_after: int = 200_000,
        beta: float = 0.999,
    ):
        self.labeled_counts = checked_counts(labeled_counts)
        self.max_margin = checked_number("max_margin", max_margin, above=0)
        self.scale = checked_number("scale", scale, above=0)
        self.reweight_after = checked_whole_number("reweight_after", reweight_after, least=0)
        self.beta = checked_number("beta", beta, least=0, below=1)

    @property
    def margins(self) -> np.ndarray:
        """The margin of each class, float64 `(K,)`."""
        margins = np.array(self.labeled_counts, np.float64) ** -0.25
        return self.max_margin * margins / margins.max()

    def class_losses(self, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Computes the loss of each image for each class; see `SupervisedLoss.class_losses`."""
        # (batch, K, K): in row k, the logits if the image's own class is k.
        logits = logits[:, None, :] - tf.constant(np.diag(self.margins), logits.dtype)
        return -tf.linalg.diag_part(tf.nn.log_softmax(self.scale * logits))

    def class_weights(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the weight of each class in the mean; see `SupervisedLoss.class_weights`."""
        weights = class_balanced_weights(self.labeled_counts, self.beta)
        deferred = tf.cast(step, tf.int64) < self.reweight_after
        return tf.where(deferred, tf.ones(len(weights), tf.float64), weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this loss."""
        return {
            "labeled_counts": self.labeled_counts,
            "max_margin": self.max_margin,
            "scale": self.scale,
            "reweight_after": self.reweight_after,
            "beta": self.beta,
        }
