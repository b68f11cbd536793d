"""SoftMatch: a weight that decreases smoothly with the confidence, instead of a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number
from daso_tf.thresholds.threshold import Selection, Threshold


@keras.saving.register_keras_serializable(package="daso_tf")
class SoftMatchWeight(Threshold):
    """Weighs pseudo-labels by a truncated Gaussian of their confidence.

    Mean and variance of the Gaussian are moving averages of those of the confidences of a batch.
    Pseudo-labels with a confidence of at least the mean have weight 1.

    Args:
        momentum: Momentum of the moving averages, in [0, 1).
        deviations: The Gaussian's standard deviation is that of the confidences divided by this
            number, above 0.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> weight = SoftMatchWeight(momentum=0.0)
    >>> weights = weight(tf.constant([[0.9, 0.1], [0.7, 0.3]])).weights
    >>> [round(float(value), 3) for value in weights]
    [1.0, 0.368]

    Reference:
        Chen et al., "SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised
        Learning", ICLR 2023, equations 5 to 8; 2 deviations as in the authors' settings. For the
        paper's uniform alignment, use `daso_tf.pseudo_labels.AlignedPseudoLabeler`.
    """

    def __init__(self, momentum: float = 0.999, deviations: float = 2.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.momentum = checked_number("momentum", momentum, least=0, below=1)
        self.deviations = checked_number("deviations", deviations, above=0)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the moving averages; see `Threshold`."""
        self.mean = self.add_weight(
            name="mean",
            shape=(),
            initializer=keras.initializers.Constant(1.0 / input_shape[-1]),
            trainable=False,
        )
        self.variance = self.add_weight(
            name="variance", shape=(), initializer="ones", trainable=False
        )
        self.built = True

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
    ) -> Selection:
        """Weighs the pseudo-labels; see `Threshold.call`."""
        confidence = tf.reduce_max(target, axis=-1)
        of_all_replicas = replicas.gather(confidence)
        count = tf.cast(tf.shape(of_all_replicas)[0], tf.float32)
        biased = tf.math.reduce_variance(of_all_replicas)
        unbiased = biased * count / tf.maximum(count - 1.0, 1.0)
        for average, value in (
            (self.mean, tf.reduce_mean(of_all_replicas)),
            (self.variance, unbiased),
        ):
            average.assign(self.momentum * average + (1.0 - self.momentum) * value)
        below = tf.minimum(confidence - self.mean, 0.0)
        width = 2.0 * self.variance / self.deviations**2
        # The variance of equal confidences is 0. All of them then have weight 1.
        return Selection(tf.exp(-tf.math.divide_no_nan(below**2, width)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "deviations": self.deviations,
        }
