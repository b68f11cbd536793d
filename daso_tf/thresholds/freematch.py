"""FreeMatch: thresholds that adapt to the network's own confidence, overall and by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number
from daso_tf.thresholds.threshold import Selection, Threshold


@keras.saving.register_keras_serializable(package="daso_tf")
class FreeMatchThreshold(Threshold):
    """Teaches pseudo-labels that reach the self-adaptive threshold of their class.

    The global threshold is the moving average of the mean confidence. The threshold of a class is
    the global one, multiplied by the moving average of the class's mean probability and divided by
    the largest such average of all classes.

    The fairness loss favors diverse predictions. For each class, take its mean probability divided
    by the fraction of images for which it is the most probable class, and scale these K ratios to
    sum to 1. Let a be the result for the weak views, from moving averages, and b the result for the
    strong views that are taught. The loss is `sum_k a_k log b_k`, over the classes that are the
    most probable one of at least one of these strong views.

    Args:
        momentum: Momentum of the moving averages, in [0, 1).
        fairness_weight: Weight of the fairness loss, at least 0. The paper uses 0.01 if very few
            images are labeled, else 0.05.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

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

    def __init__(self, momentum: float = 0.999, fairness_weight: float = 0.01, **kwargs: Any):
        super().__init__(**kwargs)
        self.momentum = checked_number("momentum", momentum, least=0, below=1)
        self.fairness_weight = checked_number("fairness_weight", fairness_weight, least=0)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the moving averages; see `Threshold`."""
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
        """Returns the least confidence at which each class is taught now, float32 `(K,)`."""
        mean_target = tf.convert_to_tensor(self.mean_target)
        return mean_target / tf.reduce_max(mean_target) * self.mean_confidence

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        step: tf.Tensor | None = None,
    ) -> Selection:
        """Selects by class thresholds; see `Threshold.call`."""
        confidence = tf.reduce_max(target, axis=-1)
        for average, value in (
            (self.mean_confidence, replicas.mean(tf.reduce_mean(confidence))),
            (self.mean_target, replicas.mean(tf.reduce_mean(target, axis=0))),
            (self.histogram, replicas.mean(tf.reduce_mean(_one_hot(target), axis=0))),
        ):
            average.assign(self.momentum * average + (1.0 - self.momentum) * value)
        thresholds = tf.gather(self.class_thresholds(), tf.argmax(target, axis=-1))
        return Selection(tf.cast(confidence >= thresholds, tf.float32))

    def auxiliary_losses(self, logits: tf.Tensor, weights: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the fairness loss; see `Threshold.auxiliary_losses`."""
        probabilities = tf.nn.softmax(logits)
        taught = tf.cast(weights > 0, logits.dtype)[:, None]
        mean = tf.reduce_sum(taught * probabilities, axis=0)
        histogram = tf.reduce_sum(taught * _one_hot(probabilities), axis=0)
        mean, histogram = replicas.mean([mean, histogram])
        predicted = histogram > 0
        # Classes that no view is predicted as add log 1 = 0.
        of_strong = tf.where(predicted, _normalized_ratio(mean, histogram), 1.0)
        of_weak = _normalized_ratio(
            tf.convert_to_tensor(self.mean_target), tf.convert_to_tensor(self.histogram)
        )
        loss = tf.reduce_sum(tf.cast(of_weak, logits.dtype) * tf.math.log(of_strong))
        return {"fairness_loss": self.fairness_weight * loss}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "fairness_weight": self.fairness_weight,
        }


def _one_hot(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns 1 for the most probable class of each image, 0 for the others."""
    classes = tf.argmax(probabilities, axis=-1)
    return tf.one_hot(classes, probabilities.shape[-1], dtype=probabilities.dtype)


def _normalized_ratio(mean: tf.Tensor, histogram: tf.Tensor) -> tf.Tensor:
    """Returns `mean / histogram`, scaled to sum to 1; 0 where the histogram is 0."""
    ratio = tf.math.divide_no_nan(mean, histogram)
    return tf.math.divide_no_nan(ratio, tf.reduce_sum(ratio))
