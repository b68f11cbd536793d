"""CoSSL: a balanced classifier, trained on enhanced tail features, makes the pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.balanced_head import AveragedFeatures, BalancedHead, Features
from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.draws import below


@keras.saving.register_keras_serializable(package="daso_tf")
class CoSSL(BalancedHead):
    """Co-learning of representation and classifier, with tail-class feature enhancement.

    All features are those of the averaged encoder in inference mode. The balanced classifier learns
    from features of strong views of labeled images, drawn with replacement: first a class, all
    classes equally likely, then one of the latest features of this class. With probability
    `(n_max - n_k) / n_max`, a feature of class k is blended with a partner, the feature of a strong
    view of any labeled or unlabeled image of the step: `s * feature + (1 - s) * partner`, with s
    uniform in [`least_share`, 1]. The label stays k. The gradient does not reach the encoder.

    The run has three phases. Until step `teach_after - warmup_steps`, the balanced classifier does
    not learn. It then learns while the learner's own classifier still makes the pseudo-labels. From
    step `teach_after` on, it makes the pseudo-labels and all predictions.

    The balanced classifier is trained by the learner's optimizer. The authors warm it up with Adam,
    between two runs, on features that are computed once; they blend these with the most likely
    images of the class, with s from a Beta(0.75, 0.75) distribution.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        teach_after: Steps before the balanced classifier makes the pseudo-labels, at least 0. The
            paper uses it in the last fifth of the run.
        least_share: The least weight s of an image's own feature, in [0, 1].
        warmup_steps: Steps in which the balanced classifier learns before it makes the
            pseudo-labels, at least 0. The authors use 10 epochs of 500 steps.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> cossl = CoSSL([40, 10], teach_after=1000, warmup_steps=100)
    >>> cossl.blend_rates.tolist()
    [0.0, 0.75]
    >>> [bool(cossl.learns_at(step)) for step in (899, 900)]
    [False, True]

    Reference:
        Fan, Dai, Kukleva and Schiele, "CoSSL: Co-Learning of Representation and Classifier for
        Imbalanced Semi-Supervised Learning", CVPR 2022, section 3; `least_share` and
        `warmup_steps` as in the authors' commands.
    """

    asks_for = frozenset({"averaged_features"})
    loss_names = ("cossl_loss",)

    def __init__(
        self,
        labeled_counts: Sequence[int],
        teach_after: int,
        least_share: float = 0.6,
        warmup_steps: int = 5000,
    ):
        super().__init__(labeled_counts)
        self.teach_after = checked_whole_number("teach_after", teach_after, least=0)
        self.least_share = checked_number("least_share", least_share, least=0, most=1)
        self.warmup_steps = checked_whole_number("warmup_steps", warmup_steps, least=0)

    @property
    def blend_rates(self) -> np.ndarray:
        """The probability that a feature of each class is blended, float64 `(K,)` in [0, 1)."""
        counts = np.array(self.labeled_counts, np.float64)
        return 1 - counts / counts.max()

    def draw(self, averaged: AveragedFeatures) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draws features from all classes equally often, and a partner for each.

        Args:
            averaged: The features of the step. The columns of `averaged.draws` choose the class,
                the feature of this class, and the partner.

        Returns:
            The features, float `(batch, D)`; their classes, int32 `(batch,)`; the partners, float
            `(batch, D)`.
        """
        of_class, of_feature, of_partner = tf.unstack(averaged.draws, axis=1)
        # Classes of which no feature is remembered yet come last and are not drawn.
        missing = tf.cast(averaged.counts == 0, tf.int32)
        num_classes = tf.size(missing)
        order = tf.argsort(missing * num_classes + tf.range(num_classes))
        classes = tf.gather(order, below(num_classes - tf.reduce_sum(missing), of_class))
        places = below(tf.gather(averaged.counts, classes), of_feature)
        drawn = tf.gather_nd(averaged.remembered, tf.stack([classes, places], axis=1))

        of_step = [replicas.gather(averaged.labeled), replicas.gather(averaged.strong)]
        candidates = tf.concat(of_step, axis=0)
        partners = tf.gather(candidates, below(tf.shape(candidates)[0], of_partner))
        return drawn, classes, partners

    def blend(
        self, features: tf.Tensor, labels: tf.Tensor, partners: tf.Tensor, draws: tf.Tensor
    ) -> tf.Tensor:
        """Blends features with partners, more often for rarer classes.

        Args:
            features: float `(batch, D)`.
            labels: int `(batch,)`, their classes in 0..K-1.
            partners: float `(batch, D)`.
            draws: float `(batch,)`, uniform in [0, 1). A feature is blended where its draw is below
                the rate of its class, and then keeps the share `1 - (1 - least_share) * draw /
                rate`.

        Returns:
            float `(batch, D)`.

        Example:

        >>> cossl = CoSSL([4, 2], teach_after=0)
        >>> features, draws = tf.constant([[1.0], [1.0], [1.0]]), tf.constant([0.1, 0.25, 0.5])
        >>> blended = cossl.blend(features, tf.constant([0, 1, 1]), tf.zeros((3, 1)), draws)
        >>> [round(float(value), 3) for value in blended[:, 0]]  # the rates are 0 and 0.5
        [1.0, 0.8, 1.0]
        """
        rates = tf.gather(tf.constant(self.blend_rates, tf.float32), labels)
        # A draw below the rate, divided by the rate, is uniform in [0, 1) and can be used again.
        share = 1.0 - (1.0 - self.least_share) * tf.math.divide_no_nan(draws, rates)
        share = tf.cast(tf.where(draws < rates, share, 1.0), features.dtype)[:, None]
        return share * features + (1.0 - share) * partners

    def loss_of_blended(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        features: tf.Tensor,
        labels: tf.Tensor,
        partners: tf.Tensor,
        draws: tf.Tensor,
    ) -> tf.Tensor:
        """Computes the mean cross-entropy of blended features; arguments as for `blend`.

        Args:
            classifier: The balanced classifier, from features to logits `(batch, K)`.
            features: float `(batch, D)`.
            labels: int `(batch,)`, their classes in 0..K-1.
            partners: float `(batch, D)`.
            draws: float `(batch,)`.

        Returns:
            A scalar.
        """
        logits = classifier(self.blend(features, labels, partners, draws))
        logits = tf.cast(logits, tf.float32)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

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
        """Computes the balanced classifier's loss, 0 before the warm-up; see `BalancedHead.loss`.

        Raises:
            ValueError: If there are no averaged features.
        """
        if averaged is None:
            raise ValueError("CoSSL learns from averaged features only: give averaged=.")
        drawn, classes, partners = self.draw(averaged)
        loss = self.loss_of_blended(
            classifier, drawn, classes, partners, draws[: tf.shape(drawn)[0]]
        )
        return tf.where(self.learns_at(step), loss, 0.0)

    def teaching_logits(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        features: tf.Tensor,
        logits: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the balanced logits from `teach_after` on; see `BalancedHead.teaching_logits`."""
        balanced = tf.cast(classifier(tf.stop_gradient(features)), logits.dtype)
        return tf.where(self.answers_at(step), balanced, logits)

    def learns_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns whether the warm-up has begun; see `BalancedHead.learns_at`."""
        return tf.cast(step, tf.int64) >= self.teach_after - self.warmup_steps

    def answers_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns whether the warm-up is over; see `BalancedHead.answers_at`."""
        return tf.cast(step, tf.int64) >= self.teach_after

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this head."""
        return {
            **super().get_config(),
            "teach_after": self.teach_after,
            "least_share": self.least_share,
            "warmup_steps": self.warmup_steps,
        }
