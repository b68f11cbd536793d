"""FreeMatch: thresholds that follow the network's own confidence, for all and for each class."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.thresholds.threshold import Threshold


@keras.saving.register_keras_serializable(package="daso_tf")
class FreeMatchThreshold(Threshold):
    """Teaches a pseudo-label whose confidence reaches its class's threshold of the moment.

    The global threshold is the moving average of the mean confidence; a class's share of it is
    the moving average of its mean probability over that of the most probable class. These are
    the paper's self-adaptive thresholds; its fairness loss is no part of a threshold.

    Args:
        momentum: Of the moving averages, in [0, 1).

    Raises:
        ValueError: If it is outside its range.

    Example:

    >>> threshold = FreeMatchThreshold(momentum=0.5)
    >>> threshold(tf.constant([[0.9, 0.1], [0.6, 0.4]])).numpy().tolist()
    [1.0, 0.0]
    >>> threshold.class_thresholds().numpy().round(3).tolist()
    [0.625, 0.375]

    Reference:
        Wang et al., "FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning", ICLR
        2023, equations 5, 6 and 7.
    """

    def __init__(self, momentum: float = 0.999, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}.")
        self.momentum = float(momentum)

    def build(self, input_shape):
        """Makes the averages, from the shape of the targets `(batch, K)`."""
        uniform = keras.initializers.Constant(1.0 / input_shape[-1])
        self.mean_confidence = self.add_weight(
            name="mean_confidence", shape=(), initializer=uniform, trainable=False
        )
        self.mean_target = self.add_weight(
            name="mean_target", shape=(input_shape[-1],), initializer=uniform, trainable=False
        )
        self.built = True

    def class_thresholds(self) -> tf.Tensor:
        """Returns the confidence that each class's pseudo-labels must reach now, float32 `(K,)`."""
        shares = tf.convert_to_tensor(self.mean_target)
        return shares / tf.reduce_max(shares) * self.mean_confidence

    def call(self, target, positions=None):
        """Weighs the pseudo-labels; see `Threshold.call`."""
        confidence = tf.reduce_max(target, axis=-1)
        for average, value in (
            (self.mean_confidence, tf.reduce_mean(confidence)),
            (self.mean_target, tf.reduce_mean(target, axis=0)),
        ):
            average.assign(self.momentum * average + (1.0 - self.momentum) * value)
        least = tf.gather(self.class_thresholds(), tf.argmax(target, axis=-1))
        return tf.cast(confidence >= least, tf.float32)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "momentum": self.momentum}
