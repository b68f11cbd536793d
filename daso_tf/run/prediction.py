"""What a model says of all images of a set, on every device that it was made for."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from daso_tf.data import ImageFiles, Images, even_batches
from daso_tf.platform import replicas
from daso_tf.platform.keras_versions import jit_compiles


class Prediction:
    """Predicts whole sets of images, batch by batch, each split over the replicas of the model.

    All batches of a set have one size, so the function that serves the first of them serves all,
    however often the set is predicted. With many workers each of them has to call it, and each gets
    the answers for all images.

    Args:
        model: a learner, made in the scope of its strategy where it has one.
        batch_size: images a batch, at most; but one for each replica in any case.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1, (8, 8, 3))
    >>> predict = Prediction(daso_tf.FixMatch(encoder, num_classes=4), batch_size=2)
    >>> images = np.zeros((3, 8, 8, 3), np.uint8)
    >>> predict(daso_tf.data.Images(images, labels=[0, 1, 2])).shape
    (3, 4)
    """

    def __init__(self, model: keras.Model, batch_size: int):
        self.model = model
        self.strategy = model.distribute_strategy
        self.batch_size = max(batch_size, self.strategy.num_replicas_in_sync)
        self._predict_batch = tf.function(self._predict_batch, jit_compile=jit_compiles(model))

    def __call__(self, images: Images | ImageFiles) -> np.ndarray:
        """Returns the class probabilities of every image, float32 `(N, K)`, in order."""
        batches = self.strategy.distribute_datasets_from_function(
            lambda context: even_batches(images, self.batch_size, context)
        )
        answers = [self._predict_batch(batch) for batch, _ in batches]
        return tf.concat(answers, axis=0).numpy()[: len(images)]

    @property
    def trace_count(self) -> int:
        """How often the function of a batch has been traced."""
        return self._predict_batch.experimental_get_tracing_count()

    def _predict_batch(self, images):
        answers = self.strategy.run(
            lambda images: replicas.gather(self.model(images, training=False)), args=(images,)
        )
        return self.strategy.experimental_local_results(answers)[0]
