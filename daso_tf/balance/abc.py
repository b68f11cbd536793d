"""ABC: a second classifier on the same features, trained with balanced masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.balanced_head import AveragedFeatures, BalancedHead, Features
from daso_tf.platform.checks import checked_number, checked_whole_number


@keras.saving.register_keras_serializable(package="daso_tf")
class ABC(BalancedHead):
    """Trains an auxiliary balanced classifier with FixMatch's two losses on randomly kept images.

    A labeled image of class k is kept with probability `n_min / n_k`, so all classes are seen
    equally often. A confident unlabeled image with pseudo-label k is kept with a probability that
    falls linearly from 1 to `n_min / n_k` during the run. The strong views are taught the
    probabilities of the weak views instead of hard pseudo-labels.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        total_steps: Steps of the whole run, during which the probability falls, at least 1.
        confidence_threshold: Least confidence of an unlabeled image that is kept, in [0, 1].
        update_every: Steps between two updates of the probability, at least 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> abc = ABC([40, 10], total_steps=1000)
    >>> [abc.keep_rates(tf.constant(step)).numpy().tolist() for step in (0, 600, 1000)]
    [[1.0, 1.0], [0.625, 1.0], [0.25, 1.0]]

    Reference:
        Lee, Shin and Kim, "ABC: Auxiliary Balanced Classifier for Class-imbalanced Semi-supervised
        Learning", NeurIPS 2021, sections 3.2 and 3.3.
    """

    asks_for = frozenset({"pseudo_labels_of_two_classifiers"})
    loss_names = ("abc_loss",)

    def __init__(
        self,
        labeled_counts: Sequence[int],
        total_steps: int,
        confidence_threshold: float = 0.95,
        update_every: int = 500,
    ):
        super().__init__(labeled_counts)
        self.total_steps = checked_whole_number("total_steps", total_steps, least=1)
        self.confidence_threshold = checked_number(
            "confidence_threshold", confidence_threshold, least=0, most=1
        )
        self.update_every = checked_whole_number("update_every", update_every, least=1)

    @property
    def balanced_rates(self) -> np.ndarray:
        """The fraction of each class's images that balances the classes, float64 `(K,)`."""
        counts = np.array(self.labeled_counts, np.float64)
        return counts.min() / counts

    def keep_rates(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the probability of keeping an unlabeled image, by its pseudo-label.

        Args:
            step: int scalar, the number of steps done before this one.

        Returns:
            float32 `(K,)` in [0, 1].
        """
        updated = tf.cast(step, tf.int64) // self.update_every * self.update_every
        progress = tf.minimum(tf.cast(updated, tf.float32) / self.total_steps, 1.0)
        return 1.0 - progress * tf.constant(1.0 - self.balanced_rates, tf.float32)

    def loss(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        pseudo_labels_of: Callable[[tf.Tensor], Any],
        features: Features,
        labels: tf.Tensor,
        draws: tf.Tensor,
        step: tf.Tensor,
        averaged: AveragedFeatures | None = None,
    ) -> tf.Tensor:
        """Computes the sum of the classifier's two losses; see `BalancedHead.loss`."""
        views = tf.concat(features, axis=0)
        sizes = [tf.shape(view)[0] for view in features]
        labeled, weak, strong = tf.split(tf.cast(classifier(views), tf.float32), sizes)
        labeled_draws, unlabeled_draws = tf.split(draws, sizes[:2])

        rates = tf.constant(self.balanced_rates, tf.float32)
        kept = tf.cast(labeled_draws < tf.gather(rates, labels), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, labeled)
        classification_loss = tf.reduce_mean(kept * losses)

        pseudo_labels = pseudo_labels_of(tf.stop_gradient(tf.nn.softmax(weak)))
        rates = tf.gather(self.keep_rates(step), pseudo_labels.final)
        confident = pseudo_labels.confidence >= self.confidence_threshold
        kept = tf.cast(confident & (unlabeled_draws < rates), tf.float32)
        losses = tf.nn.softmax_cross_entropy_with_logits(pseudo_labels.target, strong)
        return classification_loss + tf.reduce_mean(kept * losses)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this head."""
        return {
            **super().get_config(),
            "total_steps": self.total_steps,
            "confidence_threshold": self.confidence_threshold,
            "update_every": self.update_every,
        }
