"""Statistics of BatchNorm for evaluation, computed with the averaged weights themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.encoders.batch_normalization import BatchNormalization, batch_norms_of

# Batches whose statistics are averaged.
BATCHES = 8


class FreshStatistics(keras.callbacks.Callback):
    """Computes the statistics of Keras's BatchNorm layers before each evaluation within `fit`.

    Predictions come from the averaged network. The average of its running statistics lags behind
    its weights, and deep networks of many such layers then predict badly for a long time. Here
    they are the mean statistics of some batches of training images, which start at the present
    step, so a resumed training has the same. Encoders of this library do not need it. Several
    replicas do without it.

    Args:
        learner: The learner that is trained.
        batches_from: Makes batches of training, given the first step and the number of steps.
    """

    def __init__(self, learner: Any, batches_from: Callable[[int, int], tf.data.Dataset]):
        super().__init__()
        self.set_model(learner)
        self.batches_from = batches_from
        self.norms = list(lagging_norms(learner.ema_encoder))
        self._encode = tf.function(learner.network.ema_features, autograph=False)
        self._computed_at = -1

    def on_test_begin(self, logs=None):
        """Computes the statistics for a validation."""
        self._compute()

    def on_epoch_end(self, epoch, logs=None):
        """Computes them for the callbacks that follow, which may evaluate or save."""
        self._compute()

    def _compute(self):
        step = int(self.model.step.numpy())
        if step == self._computed_at:
            return
        statistics = [v for norm in self.norms for v in (norm.moving_mean, norm.moving_variance)]
        momenta = [norm.momentum for norm in self.norms]
        of_batches = []
        try:
            for norm in self.norms:
                norm.momentum = 0.0  # the running statistics are then those of the last batch
            for images, *_ in self.batches_from(step, BATCHES):
                views = tf.concat([self.model.as_input(part) for part in images[:2]], axis=0)
                self._encode(views, training=True)
                of_batches.append([np.array(tf.convert_to_tensor(v)) for v in statistics])
        finally:
            for norm, momentum in zip(self.norms, momenta, strict=True):
                norm.momentum = momentum
        for variable, values in zip(statistics, zip(*of_batches, strict=True), strict=True):
            variable.assign(np.mean(values, axis=0))
        self._computed_at = step


def lagging_norms(encoder: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """Yields the BatchNorm layers of an encoder that are Keras's and are trained."""
    for norm in batch_norms_of(encoder):
        if norm.trainable and encoder.trainable and not isinstance(norm, BatchNormalization):
            yield norm
