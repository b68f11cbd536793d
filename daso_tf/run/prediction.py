"""Predictions for whole sets of images, on every device of a model."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from daso_tf.data import ImageFiles, Images, Rows, even_batches
from daso_tf.platform import replicas
from daso_tf.platform.keras_versions import jit_compiles


class Prediction:
    """Predicts whole sets of images in batches, each divided among the replicas of the model.

    All batches of a set have the same size, so that one compiled function serves all of them. With
    many workers, each of them must call it, and each gets the predictions for all images.

    Args:
        model: A learner, made in the scope of its strategy.
        batch_size: Largest number of images per batch, but at least one per replica.
        answer: A function of a batch of images that returns a tensor with a row for each; by
            default the model, which returns class probabilities.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1, (8, 8, 3))
    >>> model = daso_tf.FixMatch(encoder, num_classes=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> predict = Prediction(model, batch_size=2)
    >>> images = np.zeros((3, 8, 8, 3), np.uint8)
    >>> predict(daso_tf.data.Images(images, labels=[0, 1, 2])).shape
    (3, 4)
    """

    def __init__(
        self,
        model: keras.Model,
        batch_size: int,
        answer: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        self.model = model
        self._answer = answer or (lambda images: model(images, training=False))
        self.strategy = model.distribute_strategy
        self.batch_size = max(batch_size, self.strategy.num_replicas_in_sync)
        self._predict_batch = tf.function(self._predicted, jit_compile=jit_compiles(model))

    def __call__(self, images: Images | ImageFiles | Rows) -> np.ndarray:
        """Returns the answers for all images in order, float32 `(N, K)` by default."""
        batches = self.strategy.distribute_datasets_from_function(
            lambda context: even_batches(images, self.batch_size, context)
        )
        predictions = [self._predict_batch(batch) for batch, _ in batches]
        return tf.concat(predictions, axis=0).numpy()[: len(images)]

    @property
    def trace_count(self) -> int:
        """Number of times that the function of a batch has been traced."""
        return self._predict_batch.experimental_get_tracing_count()

    def _predicted(self, images: tf.Tensor) -> tf.Tensor:
        predictions = self.strategy.run(
            lambda images: replicas.gather(self._answer(images)), args=(images,)
        )
        return self.strategy.experimental_local_results(predictions)[0]
