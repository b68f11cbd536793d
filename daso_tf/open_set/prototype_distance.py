"""The distance to the nearest prototype in feature space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.open_set.open_set import OpenSet


@keras.saving.register_keras_serializable(package="daso_tf")
class PrototypeDistance(OpenSet):
    """Scores images by the cosine distance of their features to the nearest prototype.

    The prototype of a class is the mean feature of its labeled images.

    Args:
        rejected: Share of the held-out images of the classes that lies above the limit, above 0
            and below 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `rejected` is outside its range.

    Example:

    >>> distance = PrototypeDistance()
    >>> distance.build([(None, 2), (None, 3)])  # 2 classes, 3 features
    >>> distance.learn(np.eye(2, 3), np.array([0, 1]))
    >>> scores = distance(tf.zeros((2, 2)), tf.constant([[5.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> scores.numpy().tolist()
    [0.0, 1.0]

    Reference:
        Oh, Kim and Kweon, "DASO", CVPR 2022, section 3.2: the prototypes, here of all labeled
        images.
    """

    learns_from = ("labeled",)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the limit and the prototypes; see `OpenSet`."""
        (_, num_classes), (_, num_features) = input_shape
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=(num_classes, num_features),
            initializer="zeros",
            trainable=False,
        )
        super().build(input_shape)

    def call(self, logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Scores images; see `OpenSet.call`."""
        features = tf.math.l2_normalize(tf.stop_gradient(tf.cast(features, tf.float32)), axis=-1)
        prototypes = tf.convert_to_tensor(self.prototypes)
        return 1.0 - tf.reduce_max(tf.matmul(features, prototypes, transpose_b=True), axis=-1)

    def learn(
        self, features: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray | None = None
    ) -> None:
        """Makes the prototypes of length 1; see `OpenSet.learn`."""
        features = np.asarray(features, np.float64)
        means = [features[labels == k].mean(axis=0) for k in range(self.prototypes.shape[0])]
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        self.prototypes.assign((means / np.maximum(lengths, 1e-12)).astype(np.float32))
