"""CoSSL: a balanced classifier, learnt on enhanced features, makes the learner's pseudo-labels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.balanced_head import BalancedHead
from daso_tf.platform import replicas


@keras.saving.register_keras_serializable(package="daso_tf")
class CoSSL(BalancedHead):
    """Co-learning of representation and classifier, with tail-class feature enhancement.

    The classifier learns from the labeled images, all classes alike. With a probability of
    `(n_max - n_k) / n_max` for an image of class k its feature is blended with that of an unlabeled
    image's strong view, of which it keeps a share drawn from [`least_share`, 1]; it stays an image
    of its class. No gradient reaches the encoder, which is the learner's to train; but from
    `teach_after` on the learner's pseudo-labels are what the balanced classifier says.

    What differs from the paper, whose features are those of the averaged encoder and whose
    classifier has batches, an optimizer and a warm-up of its own: the features are the trained
    encoder's of the step's views, weak ones of the labeled images; the classifier learns in every
    step, from the first one on; and an image counts with the inverse of its class's share, which
    comes to the same as drawing all classes alike.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        teach_after: Steps before it makes the pseudo-labels, at least 0. In the paper it is the
            last fifth of the run.
        least_share: The least share that an image keeps of its own feature, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> cossl = CoSSL([40, 10], teach_after=1000)
    >>> cossl.blend_rates.tolist()
    [0.0, 0.75]

    Reference:
        Fan, Dai, Kukleva and Schiele, "CoSSL: Co-Learning of Representation and Classifier for
        Imbalanced Semi-Supervised Learning", CVPR 2022, section 3; the share as in the authors'
        commands.
    """

    loss_names = ("cossl_loss",)

    def __init__(self, labeled_counts: Sequence[int], teach_after: int, least_share: float = 0.6):
        super().__init__(labeled_counts)
        if teach_after < 0:
            raise ValueError(f"teach_after must be at least 0, not {teach_after}.")
        if not 0 <= least_share <= 1:
            raise ValueError(f"least_share must be in [0, 1], not {least_share}.")
        self.teach_after = int(teach_after)
        self.least_share = float(least_share)

    @property
    def blend_rates(self) -> np.ndarray:
        """How often the features of each class are blended, float64 `(K,)` in [0, 1)."""
        counts = np.array(self.labeled_counts, np.float64)
        return 1 - counts / counts.max()

    def loss(self, classifier, pseudo_labels_of, features, labels, draws, step):
        """Computes the balanced classifier's loss; see `BalancedHead.loss`."""
        labeled, strong = tf.stop_gradient(features.labeled), replicas.gather(features.strong)
        count = tf.shape(labeled)[0]
        places = replicas.own_rows(tf.range(replicas.count() * count))
        others = tf.stop_gradient(tf.gather(strong, places % tf.shape(strong)[0]))
        rates = tf.gather(tf.constant(self.blend_rates, tf.float32), labels)
        blended = draws[:count] < rates
        # Below the rate, what the draw is of the rate is uniform again.
        share = 1.0 - (1.0 - self.least_share) * tf.math.divide_no_nan(draws[:count], rates)
        share = tf.cast(tf.where(blended, share, 1.0), labeled.dtype)[:, None]
        logits = classifier(share * labeled + (1.0 - share) * others)

        cost = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
        counts = np.array(self.labeled_counts, np.float64)
        weights = tf.constant(counts.mean() / counts, tf.float32)
        return tf.reduce_mean(tf.gather(weights, labels) * cost)

    def teaching_logits(self, classifier, features, logits, step):
        """Returns the balanced classifier's logits once it teaches; see `BalancedHead`."""
        own = tf.cast(classifier(tf.stop_gradient(features)), logits.dtype)
        return tf.where(tf.cast(step, tf.int64) < self.teach_after, logits, own)

    def get_config(self) -> dict:
        """Returns the arguments that make this component again."""
        return {
            **super().get_config(),
            "teach_after": self.teach_after,
            "least_share": self.least_share,
        }
