"""CoSSL: a balanced classifier, trained on enhanced tail features, makes the pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.balanced_head import BalancedHead, Features
from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number, checked_whole_number


@keras.saving.register_keras_serializable(package="daso_tf")
class CoSSL(BalancedHead):
    """Co-learning of representation and classifier, with tail-class feature enhancement.

    The balanced classifier learns from the labeled images. With probability
    `(n_max - n_k) / n_max`, the feature of an image of class k is blended with the feature of an
    unlabeled image's strong view: `s * labeled + (1 - s) * unlabeled`, with s uniform in
    [`least_share`, 1]. The label stays k. The gradient does not reach the encoder. From step
    `teach_after` on, the learner makes its pseudo-labels from the balanced classifier's
    predictions.

    Three details differ from the paper. The features are those of the trained encoder for the
    step's own views, not those of the averaged encoder. The classifier learns in every step from
    the first one on, with the learner's batches and optimizer, not with its own and a warm-up.
    Images are weighted by the inverse of their class's share instead of drawn from all classes
    equally often, which has the same expectation.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        teach_after: Steps before the balanced classifier makes the pseudo-labels, at least 0. The
            paper uses it in the last fifth of the run.
        least_share: The least weight s of an image's own feature, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> cossl = CoSSL([40, 10], teach_after=1000)
    >>> cossl.blend_rates.tolist()
    [0.0, 0.75]

    Reference:
        Fan, Dai, Kukleva and Schiele, "CoSSL: Co-Learning of Representation and Classifier for
        Imbalanced Semi-Supervised Learning", CVPR 2022, section 3; `least_share` as in the
        authors' commands.
    """

    loss_names = ("cossl_loss",)

    def __init__(self, labeled_counts: Sequence[int], teach_after: int, least_share: float = 0.6):
        super().__init__(labeled_counts)
        self.teach_after = checked_whole_number("teach_after", teach_after, least=0)
        self.least_share = checked_number("least_share", least_share, least=0, most=1)

    @property
    def blend_rates(self) -> np.ndarray:
        """The probability that a feature of each class is blended, float64 `(K,)` in [0, 1)."""
        counts = np.array(self.labeled_counts, np.float64)
        return 1 - counts / counts.max()

    def loss(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        pseudo_labels_of: Callable[[tf.Tensor], Any],
        features: Features,
        labels: tf.Tensor,
        draws: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Computes the balanced classifier's loss; see `BalancedHead.loss`."""
        labeled, strong = tf.stop_gradient(features.labeled), replicas.gather(features.strong)
        count = tf.shape(labeled)[0]
        # Image i of the global batch is blended with unlabeled image i, on any number of replicas.
        places = replicas.own_rows(tf.range(replicas.count() * count))
        others = tf.stop_gradient(tf.gather(strong, places % tf.shape(strong)[0]))
        rates = tf.gather(tf.constant(self.blend_rates, tf.float32), labels)
        blended = draws[:count] < rates
        # A draw below the rate, divided by the rate, is uniform in [0, 1) and can be used again.
        share = 1.0 - (1.0 - self.least_share) * tf.math.divide_no_nan(draws[:count], rates)
        share = tf.cast(tf.where(blended, share, 1.0), labeled.dtype)[:, None]
        logits = classifier(share * labeled + (1.0 - share) * others)

        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
        counts = np.array(self.labeled_counts, np.float64)
        weights = tf.constant(counts.mean() / counts, tf.float32)
        return tf.reduce_mean(tf.gather(weights, labels) * losses)

    def teaching_logits(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        features: tf.Tensor,
        logits: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the balanced logits from `teach_after` on; see `BalancedHead.teaching_logits`."""
        balanced = tf.cast(classifier(tf.stop_gradient(features)), logits.dtype)
        return tf.where(tf.cast(step, tf.int64) < self.teach_after, logits, balanced)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this head."""
        return {
            **super().get_config(),
            "teach_after": self.teach_after,
            "least_share": self.least_share,
        }
