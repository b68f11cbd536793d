"""BatchNorm that keeps the running statistics the way PyTorch does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from daso_tf import replicas


@keras.saving.register_keras_serializable(package="daso_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation with PyTorch's running statistics and accurate batch statistics.

    Two things differ from `keras.layers.BatchNormalization`. The running variance moves towards
    the *unbiased* variance of the batch (divided by n - 1), as in PyTorch, where the authors'
    implementation was written: with small batches this is visible in the evaluated network. And
    the batch statistics are summed image by image before they are summed over the batch: one
    float32 sum over all pixels of a batch, which TensorFlow's fused kernel makes, errs by up to
    4e-5, enough to flip activations near zero and to leave a recorded run's tolerances.

    Args:
        momentum: Weight of the old running statistics in [0, 1]. PyTorch calls `1 - momentum` the
            momentum, so its 0.1 is 0.9 here.
        epsilon: Added to the variance.
        synchronized: Whether the replicas of a distributed step normalise with the statistics of
            the global batch, as one alone would; if not, each with those of its own rows.
        **kwargs: As for `keras.layers.BatchNormalization`, but for `axis`: channels come last.

    Input shape:
        `(batch, ..., channels)`.

    Example:

    >>> layer = BatchNormalization()
    >>> layer(tf.ones((2, 4, 4, 3)), training=True).shape
    TensorShape([2, 4, 4, 3])
    """

    def __init__(
        self, momentum: float = 0.9, epsilon: float = 1e-5, synchronized: bool = True, **kwargs
    ):
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized, **kwargs)

    def call(self, inputs, training=False, mask=None):
        """Normalises with the batch's statistics in training, with the running ones otherwise."""
        if not (training and self.trainable):  # a frozen layer keeps its statistics
            return super().call(inputs, training=False, mask=mask)
        channels = inputs.shape[-1]
        # In mixed precision Keras hands out variables in the precision of the layer.
        gamma = tf.cast(self.gamma, tf.float32) if self.scale else tf.ones([channels])
        beta = tf.cast(self.beta, tf.float32) if self.center else tf.zeros([channels])
        of_batch, parts = (replicas.mean, replicas.count()) if self.synchronized else (_own, 1)
        outputs, mean, variance = _normalised(inputs, gamma, beta, self.epsilon, of_batch)
        count = tf.cast(parts * (tf.size(inputs) // channels), tf.float32)
        for statistic, batch_value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * count / tf.maximum(count - 1.0, 1.0)),
        ):
            statistic.assign(statistic * self.momentum + batch_value * (1.0 - self.momentum))
        return outputs


def _normalised(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, of_batch: Callable
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises a batch by its own statistics, which it returns, too.

    The gradient is the closed form (Ioffe and Szegedy, 2015, section 3). It keeps the inputs alone
    and makes the rest anew, which takes three quarters of the time of the gradient that TensorFlow
    would put together, and less memory. None flows through the returned statistics.

    `of_batch` makes means over the whole batch of those over the rows that are here.
    """

    @tf.custom_gradient
    def forward(inputs, gamma, beta):
        x = tf.cast(inputs, tf.float32)
        mean = of_batch(_mean_of_channels(x))
        variance = of_batch(_mean_of_channels(tf.square(x - mean)))
        inverse = tf.math.rsqrt(variance + epsilon)
        outputs = tf.cast((x - mean) * (inverse * gamma) + beta, inputs.dtype)

        def backward(upstream, *_):
            upstream = tf.cast(upstream, tf.float32)
            normalised = (tf.cast(inputs, tf.float32) - mean) * inverse
            of_beta = _mean_of_channels(upstream)
            of_gamma = _mean_of_channels(upstream * normalised)
            shift, slope = of_batch([of_beta, of_gamma])
            of_inputs = (inverse * gamma) * (upstream - shift - normalised * slope)
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            return tf.cast(of_inputs, inputs.dtype), count * of_gamma, count * of_beta

        return (outputs, mean, variance), backward

    return forward(inputs, gamma, beta)


def batch_norms_of(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """Yields the BatchNorm layers of a model, Keras's own too, and those of models within it."""
    for layer in getattr(model, "layers", ()):
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from batch_norms_of(layer)


def _mean_of_channels(x: tf.Tensor) -> tf.Tensor:
    """Returns the mean of each channel, image by image first."""
    of_images = tf.reduce_mean(x, axis=list(range(1, len(x.shape) - 1)))
    return tf.reduce_mean(of_images, axis=0)


def _own(means):
    return means
