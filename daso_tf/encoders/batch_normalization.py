"""BatchNorm that keeps the running statistics the way PyTorch does."""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="daso_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation with PyTorch's running statistics, by TensorFlow's fused kernel.

    Two things differ from `keras.layers.BatchNormalization`. The running variance moves towards
    the *unbiased* variance of the batch (divided by n - 1), as in PyTorch, where the authors'
    implementation was written: with small batches this is visible in the evaluated network. And
    the whole layer is one kernel instead of a chain of element-wise ones.

    Args:
        momentum: Weight of the old running statistics in [0, 1]. PyTorch calls `1 - momentum` the
            momentum, so its 0.1 is 0.9 here.
        epsilon: Added to the variance.
        **kwargs: As for `keras.layers.BatchNormalization`.

    Input shape:
        `(batch, height, width, channels)`; inputs of another rank go the way of the base class.

    Example:

    >>> layer = BatchNormalization()
    >>> layer(tf.ones((2, 4, 4, 3)), training=True).shape
    TensorShape([2, 4, 4, 3])
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=False, mask=None):
        """Normalises with the batch's statistics in training, with the running ones otherwise."""
        if len(inputs.shape) != 4 or not (self.center and self.scale):
            return super().call(inputs, training=training, mask=mask)
        training = bool(training) and self.trainable  # a frozen layer keeps its statistics
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.convert_to_tensor(self.moving_mean),
            variance=tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=training,
        )
        if training:
            for statistic, batch_value in (
                (self.moving_mean, mean),
                (self.moving_variance, variance),  # the kernel has already divided by n - 1
            ):
                statistic.assign(statistic * self.momentum + batch_value * (1.0 - self.momentum))
        return outputs
