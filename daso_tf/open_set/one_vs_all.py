"""A learned outlier head: for each class, whether an image belongs to it or to any other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.open_set.open_set import OpenSet

_STRENGTH = 100.0  # of the L2 penalty: there are few labeled images for many features


@keras.saving.register_keras_serializable(package="daso_tf")
class OneVsAll(OpenSet):
    """Scores images by one head per class that tells it from all other classes.

    Each head is a logistic regression on the features, in which the class and all others together
    weigh the same. An image belongs to its most probable class with the probability of the head of
    this class; the score is 1 minus that.

    The heads are fitted to the labeled images at each evaluation. OpenMatch trains them together
    with the network, with further losses on the unlabeled images.

    Args:
        rejected: Share of the held-out images of the classes that lies above the limit, above 0
            and below 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `rejected` is outside its range.

    Example:

    >>> labels = np.arange(60) % 3
    >>> features = 5 * np.eye(3)[labels] + np.random.default_rng(0).normal(size=(60, 3))
    >>> heads = OneVsAll()
    >>> heads.build([(None, 3), (None, 3)])  # 3 classes, 3 features
    >>> heads.learn(features, labels)
    >>> logits = tf.constant([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    >>> scores = heads(logits, tf.constant([[5.0, 0.0, 0.0], [2.0, 2.0, 2.0]]))
    >>> bool(scores[0] < 0.5 < scores[1])
    True

    Reference:
        Saito, Kim and Saenko, "OpenMatch: Open-set Semi-supervised Learning with Open-set
        Consistency Regularization", NeurIPS 2021, section 3.1: the one-vs-all outlier detector.
    """

    learns_from = ("labeled",)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the limit and the heads; see `OpenSet`."""
        (_, num_classes), (_, length) = input_shape
        self.kernel = self.add_weight(
            name="kernel", shape=(length, num_classes), initializer="zeros", trainable=False
        )
        self.bias = self.add_weight(
            name="bias", shape=(num_classes,), initializer="zeros", trainable=False
        )
        super().build(input_shape)

    def call(self, logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Scores images; see `OpenSet.call`."""
        features = tf.stop_gradient(tf.cast(features, tf.float32))
        heads = tf.matmul(features, tf.convert_to_tensor(self.kernel)) + self.bias
        of_class = tf.one_hot(tf.argmax(logits, axis=-1), heads.shape[-1])
        return tf.sigmoid(-tf.reduce_sum(of_class * heads, axis=-1))

    def learn(
        self, features: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray | None = None
    ) -> None:
        """Fits the heads; see `OpenSet.learn`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        features = np.asarray(features, np.float64)
        mean, spread = features.mean(axis=0), features.std(axis=0)
        spread[spread < 1e-6 * max(spread.max(), 1e-6)] = np.inf  # it tells nothing
        heads = []
        for k in range(self.bias.shape[0]):
            head = LogisticRegression(
                C=1 / _STRENGTH, class_weight="balanced", max_iter=300, tol=1e-6
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                head.fit((features - mean) / spread, labels == k)
            heads.append((head.coef_[0] / spread, head.intercept_[0]))
        kernel = np.stack([weights for weights, _ in heads], axis=1)
        self.kernel.assign(kernel.astype(np.float32))
        bias = np.array([intercept for _, intercept in heads]) - mean @ kernel
        self.bias.assign(bias.astype(np.float32))
