"""SAW: higher weights for pseudo-labels of classes that few images are predicted as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_counts
from daso_tf.thresholds.remembering import EpochThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class SAWWeight(EpochThreshold):
    """Weights labeled images and confident pseudo-labels by the inverse effective number of images.

    Let n_k be the number of unlabeled images whose latest pseudo-label is class k, whatever its
    confidence, and N the number of unlabeled images that have a pseudo-label. The weight of a
    confident pseudo-label of class k is `(1 - beta) / (1 - beta^n_k)` with `beta = 1 - K / N`,
    scaled so that the weights of all classes sum to K. For classes that are hardly ever predicted,
    this smoothed weight is below the plain inverse of n_k.

    These weights change at the start of each epoch. They are 1 in the first epoch.

    The supervised loss weights the labeled images in the same way, by the labeled images of each
    class. These weights do not change.

    Args:
        num_images: Number of unlabeled images, at least 1.
        confidence: The least confidence of a pseudo-label that is taught, in [0, 1].
        labeled_counts: Labeled images of each class, K numbers, each at least 1; None weights the
            labeled images by 1.
        epoch_steps: Steps of an epoch, at least 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> weight = SAWWeight(num_images=4, confidence=0.7, labeled_counts=[3, 1], epoch_steps=1)
    >>> target = tf.constant([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.2, 0.8]])
    >>> weight(target, positions=tf.range(4), step=0).weights.numpy().tolist()
    [1.0, 1.0, 0.0, 1.0]
    >>> selection = weight(target, tf.constant([0, 1]), tf.range(4), step=1)
    >>> [round(float(value), 3) for value in selection.weights]  # counts are 3 and 1
    [0.727, 0.727, 0.0, 1.273]
    >>> [round(float(value), 3) for value in selection.labeled_weights]
    [0.727, 1.273]

    Reference:
        Lai et al., "Smoothed Adaptive Weighting for Imbalanced Semi-Supervised Learning: Improve
        Reliability Against Unknown Distribution Data", ICML 2022; beta as in the authors'
        implementation.
    """

    def __init__(
        self,
        num_images: int,
        confidence: float = 0.95,
        labeled_counts: Sequence[int] | None = None,
        epoch_steps: int = 500,
        **kwargs: Any,
    ):
        super().__init__(num_images, confidence, epoch_steps, **kwargs)
        self.labeled_counts = None if labeled_counts is None else checked_counts(labeled_counts)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory and the weights; see `Threshold`."""
        if self.labeled_counts is not None and len(self.labeled_counts) != input_shape[-1]:
            raise ValueError(
                f"labeled_counts must have one number for each of the {input_shape[-1]} classes, "
                f"not {len(self.labeled_counts)}."
            )
        super().build(input_shape)

    def class_weights(self) -> tf.Tensor:
        """Returns the weight of a confident pseudo-label of each class now, float32 `(K,)`."""
        return tf.convert_to_tensor(self.class_values)

    def new_values(self, counts: tf.Tensor) -> tf.Tensor:
        """Computes the weights of an epoch; see `EpochThreshold.new_values`."""
        return _effective_weights(counts)

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        step: tf.Tensor | None = None,
    ) -> Selection:
        """Weights the confident pseudo-labels and the labeled images; see `Threshold.call`."""
        positions = self.checked_positions(positions)
        pseudo_labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confident = tf.cast(tf.reduce_max(target, axis=-1) >= self.confidence, tf.float32)
        weights = confident * tf.gather(self.values_at(step), pseudo_labels)
        self.remember(self.labels, positions, pseudo_labels)

        if self.labeled_counts is None or labels is None:
            return Selection(weights)
        of_classes = _effective_weights(tf.constant(self.labeled_counts))
        return Selection(weights, labeled_weights=tf.gather(of_classes, labels))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {**super().get_config(), "labeled_counts": self.labeled_counts}


def _effective_weights(counts: tf.Tensor) -> tf.Tensor:
    """Returns the weight of each class, float32 `(K,)`, from its number of images, int `(K,)`."""
    # float64, since beta is near 1.
    counts = tf.cast(counts, tf.float64)
    total = tf.reduce_sum(counts)
    beta = tf.maximum(1.0 - tf.cast(tf.size(counts), tf.float64) / tf.maximum(total, 1.0), 0.0)
    # A class without images has the weight of a class with one.
    weights = 1.0 / (1.0 - beta ** tf.maximum(counts, 1.0))
    return tf.cast(weights / tf.reduce_mean(weights), tf.float32)
