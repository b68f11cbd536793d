"""FlexMatch: the less a class is learnt so far, the lower its threshold."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf import replicas
from daso_tf.thresholds.threshold import Threshold, checked_fraction


@keras.saving.register_keras_serializable(package="daso_tf")
class FlexMatchThreshold(Threshold):
    """Teaches a pseudo-label whose confidence reaches its class's share of a threshold.

    How far a class is learnt is told by the number of unlabeled images whose pseudo-label it was
    when they last reached the threshold in full; the class with the most has the threshold in
    full, unless more images than those have never reached it (curriculum pseudo-labeling, with
    the warm-up and the convex mapping x / (2 - x) of the paper).

    Args:
        num_images: How many there are, at least 1.
        confidence: The threshold in full, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> threshold = FlexMatchThreshold(num_images=2, confidence=0.9)
    >>> target = tf.constant([[0.95, 0.05], [0.4, 0.6]])
    >>> threshold(target, positions=tf.constant([0, 1])).numpy().tolist()  # nothing learnt yet
    [1.0, 1.0]
    >>> threshold(target, positions=tf.constant([0, 1])).numpy().tolist()  # class 0 is, now
    [1.0, 1.0]
    >>> threshold.class_thresholds().numpy().tolist()
    [0.8999999761581421, 0.0]

    Reference:
        Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo
        Labeling", NeurIPS 2021, equations 5, 7, 11 and 12.
    """

    needs_positions = True

    def __init__(self, num_images: int, confidence: float = 0.95, **kwargs):
        super().__init__(**kwargs)
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, not {num_images}.")
        self.num_images = int(num_images)
        self.confidence = checked_fraction("confidence", confidence)

    def build(self, input_shape):
        """Makes the memory, from the shape of the targets `(batch, K)`."""
        self.num_classes = input_shape[-1]
        # One more than the class, so that 0 says that an image was never confident.
        self.learnt = self.add_weight(
            name="learnt",
            shape=(self.num_images,),
            initializer="zeros",
            trainable=False,
            dtype="int32",
        )
        self.built = True

    def class_thresholds(self) -> tf.Tensor:
        """Returns the confidence that each class's pseudo-labels must reach now, float32 `(K,)`."""
        counts = tf.math.bincount(
            tf.convert_to_tensor(self.learnt),
            minlength=self.num_classes + 1,
            maxlength=self.num_classes + 1,
        )
        counts = tf.cast(counts, tf.float32)
        status = counts[1:] / tf.reduce_max(counts)  # with the never confident ones: warm-up
        return self.confidence * status / (2.0 - status)

    def call(self, target, positions=None):
        """Weighs the pseudo-labels; see `Threshold.call`."""
        labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confidence = tf.reduce_max(target, axis=-1)
        mask = confidence >= tf.gather(self.class_thresholds(), labels)

        learnt = tf.convert_to_tensor(self.learnt)
        positions = replicas.gather(tf.cast(positions, tf.int32))
        seen = replicas.gather(tf.where(confidence >= self.confidence, labels + 1, 0))
        now = tf.where(seen > 0, seen, tf.gather(learnt, positions))
        self.learnt.assign(tf.tensor_scatter_nd_update(learnt, positions[:, None], now))
        return tf.cast(mask, tf.float32)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "num_images": self.num_images,
            "confidence": self.confidence,
        }
