"""SoftMatch: no threshold, but a weight that falls the less confident a pseudo-label is."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.thresholds.threshold import Selection, Threshold


@keras.saving.register_keras_serializable(package="daso_tf")
class SoftMatchWeight(Threshold):
    """Weighs a pseudo-label by a Gaussian, cut at its top, of its confidence.

    Mean and variance are moving averages of those of the confidences: what is at least as
    confident as the mean counts in full.

    Args:
        momentum: Of the moving averages, in [0, 1).
        deviations: By how much the Gaussian is narrower than the confidences are spread, above 0.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> weight = SoftMatchWeight(momentum=0.0)
    >>> weights = weight(tf.constant([[0.9, 0.1], [0.7, 0.3]])).weights
    >>> [round(float(value), 3) for value in weights]
    [1.0, 0.368]

    Reference:
        Chen et al., "SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised
        Learning", ICLR 2023, equations 5 to 8; 2 deviations as in the authors' settings. Uniform
        alignment, the paper's other half, is a pseudo-labeler here: `AlignedPseudoLabeler`.
    """

    def __init__(self, momentum: float = 0.999, deviations: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}.")
        if not deviations > 0:
            raise ValueError(f"deviations must be above 0, not {deviations}.")
        self.momentum = float(momentum)
        self.deviations = float(deviations)

    def build(self, input_shape):
        """Makes the averages, from the shape of the targets `(batch, K)`."""
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
        of_batch = replicas.gather(confidence)
        count = tf.cast(tf.shape(of_batch)[0], tf.float32)
        unbiased = tf.math.reduce_variance(of_batch) * count / tf.maximum(count - 1.0, 1.0)
        for average, value in (
            (self.mean, tf.reduce_mean(of_batch)),
            (self.variance, unbiased),
        ):
            average.assign(self.momentum * average + (1.0 - self.momentum) * value)
        below = tf.minimum(confidence - self.mean, 0.0)
        width = 2.0 * self.variance / self.deviations**2
        # A batch of equal confidences has no variance; they all count in full.
        return Selection(tf.exp(-tf.math.divide_no_nan(below**2, width)))

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "deviations": self.deviations,
        }
