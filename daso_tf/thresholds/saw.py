"""SAW: the fewer images are taken for a class, the more a pseudo-label of that class weighs."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf import replicas
from daso_tf.thresholds.threshold import Threshold, checked_fraction


@keras.saving.register_keras_serializable(package="daso_tf")
class SAWWeight(Threshold):
    """Weighs confident pseudo-labels by the effective number of images taken for their class.

    With `n_k` images whose pseudo-label was class k when they were seen last, whatever its
    confidence, and N images in all, class k weighs `(1 - beta) / (1 - beta^n_k)`, scaled so that
    all weights sum to K, with `beta = 1 - K / N`. This stays below the plain inverse of `n_k` for
    classes that hardly any image is taken for, which is what makes it smooth.

    The authors set the weights once an epoch; here they follow in every step. That they can weigh
    the labeled images likewise is a supervised loss here: `ClassBalancedLoss`.

    Args:
        num_images: N, how many unlabeled images there are, at least 1.
        confidence: Pseudo-labels of less confidence are not taught, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> weight = SAWWeight(num_images=4, confidence=0.7)
    >>> target = tf.constant([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.2, 0.8]])
    >>> weight(target, positions=tf.range(4)).numpy().tolist()  # no image is taken for any class
    [1.0, 1.0, 0.0, 1.0]
    >>> weights = weight(target, positions=tf.range(4))  # three for class 0, one for class 1
    >>> [round(float(value), 3) for value in weights]
    [0.727, 0.727, 0.0, 1.273]

    Reference:
        Lai et al., "Smoothed Adaptive Weighting for Imbalanced Semi-Supervised Learning: Improve
        Reliability Against Unknown Distribution Data", ICML 2022; beta as in the authors'
        implementation.
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
        # K stands for an image that has not been seen yet.
        self.labels = self.add_weight(
            name="labels",
            shape=(self.num_images,),
            initializer=keras.initializers.Constant(self.num_classes),
            trainable=False,
            dtype="int32",
        )
        self.built = True

    def class_weights(self) -> tf.Tensor:
        """Returns what a confident pseudo-label of each class weighs now, float32 `(K,)`."""
        classes = self.num_classes
        labels = tf.convert_to_tensor(self.labels)
        counts = tf.math.bincount(labels, minlength=classes + 1, maxlength=classes + 1)[:classes]
        # A class of no image weighs like one of one. In float64, as beta is close to 1.
        counts = tf.maximum(tf.cast(counts, tf.float64), 1.0)
        beta = max(0.0, 1.0 - classes / self.num_images)
        weights = 1.0 / (1.0 - beta**counts)
        return tf.cast(weights / tf.reduce_mean(weights), tf.float32)

    def call(self, target, positions=None):
        """Weighs the pseudo-labels; see `Threshold.call`."""
        labels = tf.argmax(target, axis=-1, output_type=tf.int32)
        confident = tf.cast(tf.reduce_max(target, axis=-1) >= self.confidence, tf.float32)
        weights = confident * tf.gather(self.class_weights(), labels)

        seen = tf.convert_to_tensor(self.labels)
        positions, labels = replicas.gather(positions), replicas.gather(labels)
        self.labels.assign(tf.tensor_scatter_nd_update(seen, positions[:, None], labels))
        return weights

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "num_images": self.num_images,
            "confidence": self.confidence,
        }
