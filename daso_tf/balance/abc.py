"""ABC: a second classifier on the same features, trained on as many images of every class."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.balanced_head import BalancedHead


@keras.saving.register_keras_serializable(package="daso_tf")
class ABC(BalancedHead):
    """What the auxiliary balanced classifier learns: FixMatch's losses, masked to be balanced.

    Each labeled image counts with probability `n_min / n_k`, so that all classes are seen alike.
    Unlabeled images that are confidently taken for class k count with a probability that falls
    from 1 to the same `n_min / n_k` over the run. They are taught the weak view's probabilities,
    not the class alone.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        total_steps: Steps of the whole run, over which that probability falls, at least 1.
        confidence_threshold: Unlabeled images of less confidence do not count, in [0, 1].
        update_every: Steps between two updates of that probability, at least 1.

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
        for name, value in (("total_steps", total_steps), ("update_every", update_every)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        if not 0 <= confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold must be in [0, 1], not {confidence_threshold}.")
        self.total_steps = int(total_steps)
        self.confidence_threshold = float(confidence_threshold)
        self.update_every = int(update_every)

    @property
    def balanced_rates(self) -> np.ndarray:
        """The share of each class's images that leaves all classes alike, float64 `(K,)`."""
        counts = np.array(self.labeled_counts, np.float64)
        return counts.min() / counts

    def keep_rates(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the probability with which an unlabeled image counts, by its pseudo-label.

        Args:
            step: int scalar, the number of steps done before this one.

        Returns:
            float32 `(K,)`.
        """
        updated = tf.cast(step, tf.int64) // self.update_every * self.update_every
        part = tf.minimum(tf.cast(updated, tf.float32) / self.total_steps, 1.0)
        return 1.0 - part * tf.constant(1.0 - self.balanced_rates, tf.float32)

    def loss(self, classifier, pseudo_labels_of, features, labels, draws, step):
        """Computes the balanced classifier's two losses, summed; see `BalancedHead.loss`."""
        views = tf.concat(features, axis=0)
        sizes = [tf.shape(view)[0] for view in features]
        labeled, weak, strong = tf.split(tf.cast(classifier(views), tf.float32), sizes)
        labeled_draws, unlabeled_draws = tf.split(draws, sizes[:2])

        rates = tf.constant(self.balanced_rates, tf.float32)
        kept = tf.cast(labeled_draws < tf.gather(rates, labels), tf.float32)
        cost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, labeled)
        classification_loss = tf.reduce_mean(kept * cost)

        pseudo_labels = pseudo_labels_of(tf.stop_gradient(tf.nn.softmax(weak)))
        rates = tf.gather(self.keep_rates(step), pseudo_labels.final)
        confident = pseudo_labels.confidence >= self.confidence_threshold
        kept = tf.cast(confident & (unlabeled_draws < rates), tf.float32)
        cost = tf.nn.softmax_cross_entropy_with_logits(pseudo_labels.target, strong)
        return classification_loss + tf.reduce_mean(kept * cost)

    def get_config(self) -> dict:
        """Returns the arguments that make this component again."""
        return {
            **super().get_config(),
            "total_steps": self.total_steps,
            "confidence_threshold": self.confidence_threshold,
            "update_every": self.update_every,
        }
