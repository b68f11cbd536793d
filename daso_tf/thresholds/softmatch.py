"""SoftMatch: a weight that decreases smoothly with the confidence, instead of a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number
from daso_tf.thresholds.threshold import Selection, Threshold

_TINY = 1e-6  # avoids a division by zero for classes without predictions, as in the authors' code


@keras.saving.register_keras_serializable(package="daso_tf")
class SoftMatchWeight(Threshold):
    """Weights pseudo-labels by a truncated Gaussian of their confidence.

    Mean and variance of the Gaussian are moving averages of those of the confidences of a batch.
    Pseudo-labels with a confidence of at least the mean have weight 1.

    With uniform alignment, the confidence is the largest probability after each prediction is
    multiplied by the ratio of the uniform distribution to the moving average of the mean
    prediction, and scaled to sum to 1. Alignment only changes the weights: pseudo-labels are those
    of the predictions as they are.

    Args:
        momentum: Momentum of the moving averages, in [0, 1).
        deviations: The Gaussian's standard deviation is that of the confidences divided by this
            number, above 0.
        alignment: Whether the weights come from uniformly aligned predictions, as in the paper.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> target = tf.constant([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]])
    >>> weights = SoftMatchWeight(momentum=0.0, alignment=False)(target).weights
    >>> [round(float(value), 3) for value in weights]
    [1.0, 0.909, 0.218]
    >>> weights = SoftMatchWeight(momentum=0.0)(target).weights
    >>> [round(float(value), 3) for value in weights]  # aligned, the second one is the least sure
    [1.0, 0.146, 0.997]

    Reference:
        Chen et al., "SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised
        Learning", ICLR 2023, equations 5 to 8 and section 3.2, "Uniform alignment"; 2 deviations as
        in the authors' settings.
    """

    def __init__(
        self,
        momentum: float = 0.999,
        deviations: float = 2.0,
        alignment: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.momentum = checked_number("momentum", momentum, least=0, below=1)
        self.deviations = checked_number("deviations", deviations, above=0)
        self.alignment = bool(alignment)

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
        if self.alignment:
            # All are 0 before the first batch.
            self.mean_prediction = self.add_weight(
                name="mean_prediction",
                shape=(input_shape[-1],),
                initializer="zeros",
                trainable=False,
            )
        self.built = True

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        step: tf.Tensor | None = None,
    ) -> Selection:
        """Weights the pseudo-labels; see `Threshold.call`."""
        confidence = tf.reduce_max(self._aligned(target) if self.alignment else target, axis=-1)
        of_all_replicas = replicas.gather(confidence)
        count = tf.cast(tf.shape(of_all_replicas)[0], tf.float32)
        biased = tf.math.reduce_variance(of_all_replicas)
        unbiased = biased * count / tf.maximum(count - 1.0, 1.0)
        for average, value in (
            (self.mean, tf.reduce_mean(of_all_replicas)),
            (self.variance, unbiased),
        ):
            average.assign(self._moved(average, value))
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
            "alignment": self.alignment,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Creates the layer from the result of `get_config`.

        Version 0.1 had no alignment. A layer that it saved is loaded without.
        """
        return super().from_config({"alignment": False, **config})

    def _aligned(self, target: tf.Tensor) -> tf.Tensor:
        """Updates the mean prediction and aligns predictions to the uniform distribution."""
        mean = replicas.mean(tf.reduce_mean(target, axis=0))
        before = tf.convert_to_tensor(self.mean_prediction)
        # The average starts with the mean of the first batch.
        mean = tf.where(tf.reduce_sum(before) > 0, self._moved(before, mean), mean)
        self.mean_prediction.assign(mean)
        aligned = target * (1.0 / target.shape[-1] + _TINY) / (mean + _TINY)
        return aligned / tf.reduce_sum(aligned, axis=-1, keepdims=True)

    def _moved(self, average: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        return self.momentum * average + (1.0 - self.momentum) * value
