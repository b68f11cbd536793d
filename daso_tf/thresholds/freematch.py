"""FreeMatch: thresholds that follow the network's own confidence, for all and for each class."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.thresholds.threshold import Selection, Threshold


@keras.saving.register_keras_serializable(package="daso_tf")
class FreeMatchThreshold(Threshold):
    """Teaches a pseudo-label whose confidence reaches its class's threshold of the moment.

    The global threshold is the moving average of the mean confidence; a class's share of it is
    the moving average of its mean probability over that of the most probable class.

    The fairness loss asks for diverse predictions. With the mean probability of each class over
    how often it is the most probable one, scaled to sum to 1: a of the weak views, by moving
    averages, and b of the strong views that are taught, it is `sum_k a_k log b_k`, over the classes
    that any of these views is taken for.

    Args:
        momentum: Of the moving averages, in [0, 1).
        fairness_weight: Weight of the fairness loss, at least 0. The paper has 0.01 where hardly
            any image is labeled, else 0.05.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> threshold = FreeMatchThreshold(momentum=0.5)
    >>> threshold(tf.constant([[0.9, 0.1], [0.6, 0.4]])).weights.numpy().tolist()
    [1.0, 0.0]
    >>> threshold.class_thresholds().numpy().round(3).tolist()
    [0.625, 0.375]

    Reference:
        Wang et al., "FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning", ICLR
        2023, sections 3.1 and 3.2; equations 5 to 7 for the thresholds.
    """

    loss_names = ("fairness_loss",)

    def __init__(self, momentum: float = 0.999, fairness_weight: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}.")
        if not fairness_weight >= 0:
            raise ValueError(f"fairness_weight must be at least 0, not {fairness_weight}.")
        self.momentum = float(momentum)
        self.fairness_weight = float(fairness_weight)

    def build(self, input_shape):
        """Makes the averages, from the shape of the targets `(batch, K)`."""
        uniform = keras.initializers.Constant(1.0 / input_shape[-1])
        self.mean_confidence = self.add_weight(
            name="mean_confidence", shape=(), initializer=uniform, trainable=False
        )
        self.mean_target, self.histogram = (
            self.add_weight(
                name=name, shape=(input_shape[-1],), initializer=uniform, trainable=False
            )
            for name in ("mean_target", "histogram")
        )
        self.built = True

    def class_thresholds(self) -> tf.Tensor:
        """Returns the confidence that each class's pseudo-labels must reach now, float32 `(K,)`."""
        shares = tf.convert_to_tensor(self.mean_target)
        return shares / tf.reduce_max(shares) * self.mean_confidence

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
    ) -> Selection:
        """Weighs the pseudo-labels; see `Threshold.call`."""
        confidence = tf.reduce_max(target, axis=-1)
        for average, value in (
            (self.mean_confidence, replicas.mean(tf.reduce_mean(confidence))),
            (self.mean_target, replicas.mean(tf.reduce_mean(target, axis=0))),
            (self.histogram, replicas.mean(tf.reduce_mean(_one_hot(target), axis=0))),
        ):
            average.assign(self.momentum * average + (1.0 - self.momentum) * value)
        least = tf.gather(self.class_thresholds(), tf.argmax(target, axis=-1))
        return Selection(tf.cast(confidence >= least, tf.float32))

    def auxiliary_losses(self, logits: tf.Tensor, weights: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the fairness loss; see `Threshold.auxiliary_losses`."""
        probabilities = tf.nn.softmax(logits)
        taught = tf.cast(weights > 0, logits.dtype)[:, None]
        mean = tf.reduce_sum(taught * probabilities, axis=0)
        histogram = tf.reduce_sum(taught * _one_hot(probabilities), axis=0)
        mean, histogram = replicas.mean([mean, histogram])
        there = histogram > 0
        of_strong = tf.where(there, _per_image(mean, histogram), 1.0)  # the logarithm of 1 is 0
        of_weak = _per_image(
            tf.convert_to_tensor(self.mean_target), tf.convert_to_tensor(self.histogram)
        )
        loss = tf.reduce_sum(tf.cast(of_weak, logits.dtype) * tf.math.log(of_strong))
        return {"fairness_loss": self.fairness_weight * loss}

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "fairness_weight": self.fairness_weight,
        }


def _one_hot(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns 1 for the most probable class of each image, 0 for the others."""
    classes = tf.argmax(probabilities, axis=-1)
    return tf.one_hot(classes, probabilities.shape[-1], dtype=probabilities.dtype)


def _per_image(mean: tf.Tensor, histogram: tf.Tensor) -> tf.Tensor:
    """Divides each class's probability by how often it is taken; 0 where never; sums to 1."""
    ratio = tf.math.divide_no_nan(mean, histogram)
    return tf.math.divide_no_nan(ratio, tf.reduce_sum(ratio))
