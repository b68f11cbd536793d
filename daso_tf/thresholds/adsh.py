"""ADSH: selects the same fraction of the images of every class as of the head class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_counts
from daso_tf.thresholds.remembering import EpochThreshold
from daso_tf.thresholds.threshold import Selection


@keras.saving.register_keras_serializable(package="daso_tf")
class ADSHThreshold(EpochThreshold):
    """Teaches the most confident images of each class, the same fraction as of the head class.

    The head class, which has the most labeled images, has the threshold `confidence`. Let rho be
    the fraction of the images predicted as the head class that reach it. For another class with
    n_k predicted images, sorted from the most to the least confident, the threshold is the
    confidence at position `max(round(rho * n_k - 1), 0)`, but at most `confidence`. A class with no
    predicted image keeps its threshold. Where no image of the head class is confident, all classes
    have the threshold `confidence`.

    The label of an image is the class with the largest probability divided by the threshold of the
    class. It is taught if this ratio is at least 1.

    The thresholds change at the start of each epoch. During the first two epochs they are
    `confidence` for all classes. The authors predict all unlabeled images at the start of an epoch;
    this layer uses the latest prediction of every image.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
        num_images: Number of unlabeled images, at least 1.
        confidence: The threshold of the head class, in [0, 1].
        epoch_steps: Steps of an epoch, at least 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> threshold = ADSHThreshold([9, 1], num_images=4, confidence=0.9, epoch_steps=1)
    >>> target = tf.constant([[0.95, 0.05], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
    >>> threshold(target, positions=tf.range(4), step=0).weights.numpy().tolist()
    [1.0, 0.0, 0.0, 0.0]
    >>> threshold(target, positions=tf.range(4), step=2).weights.numpy().tolist()  # half of each
    [1.0, 0.0, 0.0, 1.0]

    Reference:
        Guo and Li, "Class-Imbalanced Semi-Supervised Learning with Adaptive Thresholding", ICML
        2022.
    """

    first_epoch = 2

    def __init__(
        self,
        labeled_counts: Sequence[int],
        num_images: int,
        confidence: float = 0.95,
        epoch_steps: int = 500,
        **kwargs: Any,
    ):
        super().__init__(num_images, confidence, epoch_steps, **kwargs)
        self.labeled_counts = checked_counts(labeled_counts)

    @property
    def first_value(self) -> float:
        """The threshold of every class in the first two epochs."""
        return self.confidence

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory and the thresholds; see `Threshold`."""
        if len(self.labeled_counts) != input_shape[-1]:
            raise ValueError(
                f"labeled_counts must have one number for each of the {input_shape[-1]} classes, "
                f"not {len(self.labeled_counts)}."
            )
        super().build(input_shape)
        self.confidences = self.add_weight(
            name="confidences", shape=(self.num_images,), initializer="zeros", trainable=False
        )

    def image_memories(self) -> list[tf.Variable]:
        """Returns the variables with one entry per unlabeled image; see `Threshold`."""
        return [*super().image_memories(), self.confidences]

    def class_thresholds(self) -> tf.Tensor:
        """Returns the least confidence at which each class is taught now, float32 `(K,)`."""
        return tf.convert_to_tensor(self.class_values)

    def new_values(self, counts: tf.Tensor) -> tf.Tensor:
        """Computes the thresholds of an epoch; see `EpochThreshold.new_values`."""
        labels, confidences = map(tf.convert_to_tensor, (self.labels, self.confidences))
        head = self.labeled_counts.index(max(self.labeled_counts))
        confident = (labels == head) & (confidences >= self.confidence)
        confident = tf.reduce_sum(tf.cast(confident, tf.float64))

        fraction = confident / tf.cast(tf.maximum(counts[head], 1), tf.float64)
        # tf.round rounds halves to the even number, as the authors' np.round does.
        place = tf.cast(tf.round(tf.cast(counts, tf.float64) * fraction - 1.0), tf.int32)
        # Sorts all images by class, then from the most to the least confident. The key is exact:
        # a float64 holds twice the class minus a float32 in [1 / K, 1].
        ordered = tf.sort(2.0 * tf.cast(labels, tf.float64) - tf.cast(confidences, tf.float64))
        # A class with no image has a place that belongs to another one, and ignores it.
        places = tf.cumsum(counts, exclusive=True) + tf.maximum(place, 0)
        places = tf.minimum(places, self.num_images - 1)
        classes = tf.range(self.num_classes)
        reached = 2.0 * tf.cast(classes, tf.float64) - tf.gather(ordered, places)
        reached = tf.minimum(tf.cast(reached, tf.float32), self.confidence)
        thresholds = tf.where(counts > 0, reached, self.class_thresholds())
        return tf.where((classes == head) | (confident == 0), self.confidence, thresholds)

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        step: tf.Tensor | None = None,
    ) -> Selection:
        """Selects labels and images by class thresholds; see `Threshold.call`."""
        positions = self.checked_positions(positions)
        thresholds = self.values_at(step)
        selected = tf.argmax(target / thresholds, axis=-1)
        # The same as a ratio of at least 1, and exact where a division is rounded.
        probability = tf.gather(target, selected, batch_dims=1, axis=1)
        taught = probability >= tf.gather(thresholds, selected)

        pseudo_labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        self.remember(self.labels, positions, pseudo_labels)
        self.remember(self.confidences, positions, tf.reduce_max(target, axis=-1))
        return Selection(tf.cast(taught, tf.float32), labels=selected)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "labeled_counts": self.labeled_counts,
        }
