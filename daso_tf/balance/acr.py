"""ACR: two classifiers with targets of different adjustments, by the unlabeled distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.balance.balanced_head import BalancedHead, HeadStep
from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.epoch_start import epoch_begins

_TINY = 1e-12  # avoids the logarithm of 0


@keras.saving.register_keras_serializable(package="daso_tf")
class ACR(BalancedHead, keras.layers.Layer):
    """Adaptive consistency regularizer: the pseudo-labels of two classifiers.

    Let p be the class distribution of the labeled images and `A(t) = log p^t`. The targets of the
    learner's own classifier are those of its logits minus `A(tau)`, and those of the balanced
    classifier are of the same logits minus `A(target_tau)`. The balanced classifier learns the
    labeled images with `A(loss_tau)` added to its logits. An image is taught where one of two
    predictions is confident: with or without its adjustment; for the balanced classifier, its own
    or the adjusted one of the other.

    The strength `tau` follows the class distribution of the unlabeled images. The head estimates it
    and compares it with p, with the uniform distribution and with p in the opposite order of
    classes. At the start of each epoch, `tau` becomes a share of its initial value, the larger, the
    farther the estimate was from p.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1, the largest first.
        tau: Initial strength of the adjustment of the classifier's targets, at least 0.
        target_tau: Strength of the adjustment of the balanced classifier's targets, at least 0.
        loss_tau: Strength of the adjustment of the balanced classifier's loss, at least 0.
        confidence_threshold: Least confidence of an image that is taught, in [0, 1].
        momentum: Momentum of the estimated distribution, in [0, 1).
        adapts: Whether `tau` follows the estimate. If False, it keeps its initial value ("without
            anchor distributions").
        estimate_after: Number of the last epoch, from 0, without an estimate, at least 0.
        epoch_steps: Steps of an epoch, at least 1.
        num_unlabeled: Unlabeled images that are no labeled ones, at least 1; images at later
            positions are not used for the estimate. None: all are.
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> head = ACR([3, 1], momentum=0.5)
    >>> head.build((None, 2))
    >>> sure = tf.constant([[0.99, 0.01], [0.98, 0.02]])
    >>> head.presence(sure).numpy().tolist()  # the last image of class 0 is confident
    [1.0, 0.0]

    Reference:
        Wei and Gan, "Towards Realistic Long-Tailed Semi-Supervised Learning: Consistency Is All You
        Need", CVPR 2023; the estimate as in the authors' implementation.
    """

    asks_for = frozenset({"joint_pass"})
    refuses = MappingProxyType(
        {
            "balance": "each counters the imbalance; both would counter it twice",
            "pseudo_labeler": "it makes the pseudo-labels of both classifiers itself",
            "threshold": "its masks are those of one confidence for two predictions",
        }
    )
    loss_names = ("balanced_supervised_loss", "balanced_consistency_loss")
    strong_views = 2

    def __init__(
        self,
        labeled_counts: Sequence[int],
        tau: float = 2.0,
        target_tau: float = 2.0,
        loss_tau: float = 2.0,
        confidence_threshold: float = 0.95,
        momentum: float = 0.99,
        adapts: bool = True,
        estimate_after: int = 5,
        epoch_steps: int = 500,
        num_unlabeled: int | None = None,
        dtype: Any = "float32",
        **kwargs: Any,
    ):
        keras.layers.Layer.__init__(self, dtype=dtype, **kwargs)
        BalancedHead.__init__(self, labeled_counts)
        self.tau = checked_number("tau", tau, least=0)
        self.target_tau = checked_number("target_tau", target_tau, least=0)
        self.loss_tau = checked_number("loss_tau", loss_tau, least=0)
        self.confidence_threshold = checked_number(
            "confidence_threshold", confidence_threshold, least=0, most=1
        )
        self.momentum = checked_number("momentum", momentum, least=0, below=1)
        self.adapts = bool(adapts)
        self.estimate_after = checked_whole_number("estimate_after", estimate_after, least=0)
        self.epoch_steps = checked_whole_number("epoch_steps", epoch_steps, least=1)
        if num_unlabeled is not None:
            num_unlabeled = checked_whole_number("num_unlabeled", num_unlabeled, least=1)
            self.asks_for = self.asks_for | {"positions"}  # type: ignore[misc]
        self.num_unlabeled = num_unlabeled

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the estimate, the distances and the strength; see `BalancedHead`."""

        def variable(name: str, shape: tuple[int, ...], initial: float, dtype: str) -> tf.Variable:
            initializer = keras.initializers.Constant(initial)
            return self.add_weight(
                name=name, shape=shape, initializer=initializer, trainable=False, dtype=dtype
            )

        classes = input_shape[-1]
        self.strength = variable("strength", (), self.tau, "float32")
        self.prior_unlabeled = variable("prior_unlabeled", (classes,), 1.0 / classes, "float32")
        # To the labeled, the uniform and the reversed distribution, summed since the epoch's start.
        self.distances = variable("distances", (3,), 0.0, "float32")
        self.epoch = variable("epoch", (), 0, "int64")
        self.built = True

    def adjustment(self, tau: float | tf.Tensor) -> tf.Tensor:
        """Returns `log p^tau`.

        Args:
            tau: Strength, at least 0.

        Returns:
            float32 `(K,)`.
        """
        return tf.math.log(tf.constant(self._labeled, tf.float32) ** tau + _TINY)

    def teaching_logits(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        features: tf.Tensor,
        logits: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the adjusted logits; see `BalancedHead.teaching_logits`."""
        self._start(step)
        return logits - self.adjustment(tf.convert_to_tensor(self.strength))

    def selected(self, weights: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Teaches what is confident without the adjustment, too; see `BalancedHead.selected`."""
        return tf.maximum(weights, self._confident(tf.nn.softmax(logits)))

    def step_losses(self, of: HeadStep) -> dict[str, tf.Tensor]:
        """Computes the losses and updates the estimate; see `BalancedHead.step_losses`."""
        strong = [v for v in (of.features.strong, of.second_strong) if v is not None]
        views = [of.features.labeled, of.features.weak, *strong]
        sizes = [tf.shape(view)[0] for view in views]
        logits = tf.cast(of.classifier(tf.concat(views, axis=0)), tf.float32)
        labeled, weak, *strong = tf.split(logits, sizes)

        balanced = tf.stop_gradient(tf.nn.softmax(weak))
        targets, mask = self.targets(tf.stop_gradient(of.weak_logits), balanced)
        if of.belongs is not None:
            mask *= of.belongs
        self._estimate(balanced, of)

        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        supervised = cross_entropy(of.labels, labeled + self.adjustment(self.loss_tau))
        of_views = [tf.reduce_mean(mask * cross_entropy(targets, view)) for view in strong]
        return {
            "balanced_supervised_loss": tf.reduce_mean(supervised),
            "balanced_consistency_loss": tf.add_n(of_views) / len(of_views),
        }

    def targets(self, logits: tf.Tensor, balanced: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the balanced classifier is taught.

        Args:
            logits: float `(mu * batch, K)` of the weak views, by the learner's first classifier.
            balanced: float `(mu * batch, K)`, probabilities by the balanced classifier.

        Returns:
            The classes, int64 `(mu * batch,)`, and float `(mu * batch,)`, 1 for those that are
            taught, else 0.
        """
        adjusted = tf.nn.softmax(logits - self.adjustment(self.target_tau))
        mask = tf.maximum(self._confident(balanced), self._confident(adjusted))
        return tf.argmax(adjusted, axis=-1), mask

    def anchor_distances(self, prior: tf.Tensor) -> tf.Tensor:
        """Returns the distances of a class distribution from the three that it may be.

        Args:
            prior: float `(K,)`, above 0.

        Returns:
            float32 `(3,)`, the mean of the Kullback-Leibler divergences in both directions, to the
            distribution of the labeled images, to the uniform one and to the reversed one.
        """
        labeled = self._labeled
        anchors = np.stack([labeled, np.full_like(labeled, 1.0 / len(labeled)), labeled[::-1]])
        anchors = tf.constant(anchors, tf.float32)
        prior = tf.convert_to_tensor(prior)
        logarithms = tf.math.log(prior) - tf.math.log(anchors)
        return tf.reduce_sum((prior - anchors) * logarithms, axis=-1) / 2.0

    def presence(
        self,
        probabilities: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns which classes are present among the unlabeled images of a step.

        A class is present if the last image that is predicted as this class is confident and is
        not a labeled image. Images that belong to no class do not count as predicted.

        Args:
            probabilities: float `(mu * batch, K)`, the balanced predictions for the weak views.
            positions: int `(mu * batch,)`, the positions of these images among all unlabeled ones.
            belongs: float `(mu * batch,)`, 0 for images that belong to no class, else 1; None
                without an open set.

        Returns:
            float32 `(K,)`: the same share for each class that is present, 0 for the others.

        Raises:
            ValueError: If there are no positions, and `num_unlabeled` is given.
        """
        counts = self._confident(probabilities)
        if self.num_unlabeled is not None:
            if positions is None:
                raise ValueError(
                    "ACR with num_unlabeled needs the positions of the unlabeled images of each "
                    "batch. Create the batches by training_batches(..., with_positions=True)."
                )
            counts *= tf.cast(positions < self.num_unlabeled, tf.float32)
        classes = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        if belongs is not None:
            classes = tf.where(belongs > 0, classes, -1)  # segments ignore negative numbers
        classes, counts = replicas.gather(classes), replicas.gather(counts)
        num_classes = len(self.labeled_counts)
        last = tf.math.unsorted_segment_max(tf.range(tf.size(classes)), classes, num_classes)
        present = tf.where(last >= 0, tf.gather(counts, tf.maximum(last, 0)), 0.0)
        return tf.math.divide_no_nan(present, tf.reduce_sum(present))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this head."""
        return {
            **keras.layers.Layer.get_config(self),
            "labeled_counts": list(self.labeled_counts),
            "tau": self.tau,
            "target_tau": self.target_tau,
            "loss_tau": self.loss_tau,
            "confidence_threshold": self.confidence_threshold,
            "momentum": self.momentum,
            "adapts": self.adapts,
            "estimate_after": self.estimate_after,
            "epoch_steps": self.epoch_steps,
            "num_unlabeled": self.num_unlabeled,
        }

    @property
    def _labeled(self) -> np.ndarray:
        return np.array(self.labeled_counts) / np.sum(self.labeled_counts)

    def _confident(self, probabilities: tf.Tensor) -> tf.Tensor:
        confidence = tf.reduce_max(probabilities, axis=-1)
        return tf.cast(confidence >= self.confidence_threshold, tf.float32)

    def _start(self, step: tf.Tensor) -> None:
        """Sets the strength where an epoch begins."""
        begins = epoch_begins(self.epoch, step, self.epoch_steps)
        distances = tf.convert_to_tensor(self.distances)
        share = tf.nn.softmax(distances / self.epoch_steps)[0]
        estimates = self.adapts & (tf.convert_to_tensor(self.epoch) > self.estimate_after)
        changes = begins & estimates & tf.math.is_finite(share)
        self.strength.assign(tf.where(changes, self.tau * share, self.strength))
        self.distances.assign(tf.where(begins, tf.zeros_like(distances), distances))

    def _estimate(self, probabilities: tf.Tensor, of: HeadStep) -> None:
        """Updates the estimated distribution, and adds its distances to the three others."""
        present = self.presence(probabilities, of.positions, of.belongs)
        epoch = tf.cast(of.step, tf.int64) // self.epoch_steps
        updates = (epoch > self.estimate_after) & (tf.reduce_sum(present) > 0)
        before = tf.convert_to_tensor(self.prior_unlabeled)
        moved = self.momentum * before + (1.0 - self.momentum) * present
        prior = tf.where(updates, moved, before)
        self.prior_unlabeled.assign(prior)

        distances = self.anchor_distances(prior)
        self.distances.assign_add(tf.where(updates, distances, tf.zeros_like(distances)))
