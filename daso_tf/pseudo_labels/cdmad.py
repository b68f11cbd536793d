"""CDMAD: what the network predicts for an image without content is its bias, and is subtracted."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_distribution, checked_whole_number
from daso_tf.platform.epoch_start import epoch_begins
from daso_tf.pseudo_labels.distribution_alignment import DistributionAlignment
from daso_tf.pseudo_labels.pseudo_labeler import (
    OWN_LOSSES,
    Logits,
    PseudoLabeler,
    PseudoLabels,
    checked_num_classes,
    debiased,
)

_TINY = 1e-8  # is added to the probability within the logarithm, and part of the function


@keras.saving.register_keras_serializable(package="daso_tf")
class CDMADPseudoLabeler(PseudoLabeler):
    """Soft pseudo-labels of debiased logits: those for a blank image are subtracted (CDMAD).

    The bias is what the trained network predicts for a blank image, in training mode. It is
    subtracted from the logits of the weak views after some epochs, and from those of all
    predictions. The whole distributions are taught, whatever their confidence: the threshold is 0.
    Each set of views is a batch of its own, as in the authors' implementation.

    Args:
        debias_after: Epochs, at least 0. The bias is subtracted in those with a larger number,
            counted from 0.
        epoch_steps: Steps of an epoch, at least 1.
        aligned_counts: If it is given, predictions are scaled until their mean over the last 128
            batches of the epoch has this class distribution: the expected unlabeled images of each
            class, K numbers of at least 0. The authors do so in ReMixMatch where labeled and
            unlabeled images have the same imbalance ratio.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = CDMADPseudoLabeler(debias_after=0, epoch_steps=1)
    >>> logits, bias = tf.constant([[2.0, 1.0]]), tf.constant([[3.0, 0.0]])
    >>> [labeler.teaching_logits(logits, bias, step).numpy().tolist() for step in (0, 1)]
    [[[2.0, 1.0]], [[-1.0, 1.0]]]

    Reference:
        Lee and Kim, "CDMAD: Class-Distribution-Mismatch-Aware Debiasing for Class-Imbalanced
        Semi-Supervised Learning", CVPR 2024; the delay, the training mode and the separate batches
        as in the authors' implementation.
    """

    asks_for = frozenset({"step_losses", "blank_image"})
    refuses = MappingProxyType(
        {**OWN_LOSSES, "predictions_not_aligned": "it removes the bias of the predictions itself"}
    )
    strong_views = 2
    confidence = 0.0

    def __init__(
        self,
        debias_after: int = 100,
        epoch_steps: int = 500,
        aligned_counts: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.debias_after = checked_whole_number("debias_after", debias_after, least=0)
        self.epoch_steps = checked_whole_number("epoch_steps", epoch_steps, least=1)
        if aligned_counts is not None:
            aligned_counts = checked_distribution("aligned_counts", aligned_counts)
        self.aligned_counts = aligned_counts

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the alignment, if predictions are aligned; see `PseudoLabeler`."""
        (_, num_classes), _ = input_shape
        if self.aligned_counts is not None:
            checked_num_classes("aligned_counts", self.aligned_counts, num_classes)
            self.alignment = DistributionAlignment(self.aligned_counts, name="alignment")
            self.alignment.build((None, num_classes))
            self.epoch = self.add_weight(
                name="epoch", shape=(), initializer="zeros", trainable=False, dtype="int64"
            )
        self.built = True

    def teaching_logits(self, logits: tf.Tensor, bias: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Subtracts the bias once its epochs have begun; see `PseudoLabeler.teaching_logits`."""
        debiases = tf.cast(step, tf.int64) // self.epoch_steps > self.debias_after
        return tf.where(debiases, debiased(logits, bias), logits)

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        target = self._aligned(tf.stop_gradient(linear_target), step, belongs)
        return PseudoLabels.from_target(target, linear=tf.argmax(target, axis=-1))

    def step_losses(
        self,
        logits: Logits,
        labels: tf.Tensor,
        pseudo_labels: PseudoLabels,
        weights: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Computes both losses; see `PseudoLabeler.step_losses`."""
        one_hot = tf.one_hot(labels, logits.labeled.shape[-1])
        of_views = [
            tf.reduce_mean(weights * bounded_cross_entropy(pseudo_labels.target, view))
            for view in logits.strong
        ]
        return {
            "supervised_loss": tf.reduce_mean(bounded_cross_entropy(one_hot, logits.labeled)),
            "consistency_loss": tf.add_n(of_views) / len(of_views),
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "debias_after": self.debias_after,
            "epoch_steps": self.epoch_steps,
            "aligned_counts": self.aligned_counts and list(self.aligned_counts),
        }

    def _aligned(
        self, probabilities: tf.Tensor, step: tf.Tensor, belongs: tf.Tensor | None
    ) -> tf.Tensor:
        """Aligns a batch of predictions by those of the epoch so far."""
        if self.aligned_counts is None:
            return probabilities
        begins = epoch_begins(self.epoch, step, self.epoch_steps)
        for memory in self.alignment.weights:
            memory.assign(tf.where(begins, tf.zeros_like(memory), memory))
        return self.alignment(probabilities, belongs)


def bounded_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the cross-entropy of probabilities plus 1e-8, which is at most 18.4.

    Args:
        targets: float `(batch, K)`, rows sum to 1.
        logits: float `(batch, K)`.

    Returns:
        float `(batch,)`.

    Example:

    >>> loss = bounded_cross_entropy(tf.constant([[0.0, 1.0]]), tf.constant([[1000.0, 0.0]]))
    >>> round(float(loss[0]), 2)
    18.42
    """
    return -tf.reduce_sum(targets * tf.math.log(tf.nn.softmax(logits) + _TINY), axis=-1)
