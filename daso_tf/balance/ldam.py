"""LDAM: rare classes shall be told apart by a larger margin, and later weigh more."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.class_balanced import checked_beta, class_balanced_weights
from daso_tf.balance.supervised_loss import SupervisedLoss
from daso_tf.platform.checks import checked_counts


@keras.saving.register_keras_serializable(package="daso_tf")
class LDAMLoss(SupervisedLoss):
    """Cross-entropy with a margin for each class, and deferred re-weighting (LDAM-DRW).

    A margin of `n_k^(-1/4)`, scaled so that the largest is `max_margin`, is subtracted from the
    logit of an image's own class. Late in the run each image counts in the batch's mean with the
    class-balanced weight of its class.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        max_margin: The margin of the rarest class, above 0.
        scale: By what all logits are multiplied, above 0. LDAM's authors take 30 for the cosines of
            a classifier whose features and weights are normalised, which are at most 1; the logits
            of a linear classifier, as here, find their scale themselves. DASO's comparison has 30
            with a linear one, and a warm-up; without that, runs tend to diverge.
        reweight_after: Steps before classes are weighted, at least 0. DASO's comparison weights
            the last fifth of its 250,000 steps.
        beta: Of the weights; as for `ClassBalancedLoss`.

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
        labeled_counts: list[int],
        max_margin: float = 0.5,
        scale: float = 1.0,
        reweight_after: int = 200_000,
        beta: float = 0.999,
    ):
        for name, value in (("max_margin", max_margin), ("scale", scale)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}.")
        if reweight_after < 0:
            raise ValueError(f"reweight_after must be at least 0, not {reweight_after}.")
        self.labeled_counts = checked_counts(labeled_counts)
        self.max_margin = float(max_margin)
        self.scale = float(scale)
        self.reweight_after = int(reweight_after)
        self.beta = checked_beta(beta)

    @property
    def margins(self) -> np.ndarray:
        """The margin of each class, float64 `(K,)`."""
        margins = np.array(self.labeled_counts, np.float64) ** -0.25
        return self.max_margin * margins / margins.max()

    def of_every_class(self, logits, step):
        """Computes what each image costs if its class is k; see `SupervisedLoss`."""
        # (batch, K, K): the logits once for each class that may be the image's own.
        logits = logits[:, None, :] - tf.constant(np.diag(self.margins), logits.dtype)
        return -tf.linalg.diag_part(tf.nn.log_softmax(self.scale * logits))

    def weight_of_every_class(self, step):
        """Returns what an image of each class counts in the mean; see `SupervisedLoss`."""
        weights = class_balanced_weights(self.labeled_counts, self.beta)
        deferred = tf.cast(step, tf.int64) < self.reweight_after
        return tf.where(deferred, tf.ones(len(weights), tf.float64), weights)

    def get_config(self):
        """Returns the arguments that make this loss again."""
        return {
            "labeled_counts": self.labeled_counts,
            "max_margin": self.max_margin,
            "scale": self.scale,
            "reweight_after": self.reweight_after,
            "beta": self.beta,
        }
