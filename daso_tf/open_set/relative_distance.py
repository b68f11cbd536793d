"""The distance to the classes, relative to that to all unlabeled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.open_set.open_set import OpenSet

# Unlabeled images are scored by a density that was fitted to them. In as many dimensions as a
# network has features, it fits each of them too closely, and they look unknown only for that: of
# 600 images, 56 % of those of known classes were rejected instead of 5 %. See
# benchmarks/RESULTS.md.
_IMAGES_PER_COMPONENT = 20
_COMPONENTS = 64


@keras.saving.register_keras_serializable(package="daso_tf")
class RelativeDistance(OpenSet):
    """Scores images by the distance to the nearest class minus that to the unlabeled images.

    Both are squared Mahalanobis distances of features: to the means of the classes, with the
    covariance within the classes of the labeled images; and to the mean of the unlabeled images,
    with their covariance. Up to a constant, the score is the logarithm of the density of the
    unlabeled images over that of the classes: it is high where there are more unlabeled images
    than the classes explain. The features are projected onto the principal components of the
    unlabeled images, one for every 20 images, at most 64. The covariances are shrunk as Ledoit and
    Wolf do.

    Args:
        rejected: Share of the held-out images of the classes that lies above the limit, above 0
            and below 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `rejected` is outside its range.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(100) % 2
    >>> labeled = rng.normal(size=(100, 3)) + 9 * np.eye(2, 3)[labels]
    >>> others = rng.normal(size=(100, 3)) + [0, 0, 9]
    >>> distance = RelativeDistance()
    >>> distance.build([(None, 2), (None, 3)])  # 2 classes, 3 features
    >>> distance.learn(labeled, labels, np.concatenate([labeled, others]))
    >>> scores = distance(tf.zeros((2, 2)), tf.constant([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]]))
    >>> bool(scores[0] < 0 < scores[1])
    True

    Reference:
        Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", ICML
        2021 workshop on uncertainty and robustness in deep learning, section 3. There the second
        distance is that to all training images, and the features are not projected.
    """

    learns_from = ("labeled", "unlabeled")

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the limit, the means and the square roots of the precisions; see `OpenSet`."""
        (_, num_classes), (_, length) = input_shape
        self.means, self.root, self.unlabeled_mean, self.unlabeled_root = (
            self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)
            for name, shape in {
                "means": (num_classes, length),
                "root": (length, length),
                "unlabeled_mean": (1, length),
                "unlabeled_root": (length, length),
            }.items()
        )
        super().build(input_shape)

    def call(self, logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Scores images; see `OpenSet.call`."""
        features = tf.stop_gradient(tf.cast(features, tf.float32))
        to_classes = _squared_distances(features, self.means, self.root)
        to_unlabeled = _squared_distances(features, self.unlabeled_mean, self.unlabeled_root)
        return tf.reduce_min(to_classes, axis=1) - to_unlabeled[:, 0]

    def learn(
        self, features: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray | None = None
    ) -> None:
        """Fits means and covariances; see `OpenSet.learn`."""
        if unlabeled is None:
            raise ValueError("RelativeDistance needs the features of unlabeled images: unlabeled=.")
        features, unlabeled = (np.asarray(f, np.float64) for f in (features, unlabeled))
        means = np.stack([features[labels == k].mean(axis=0) for k in range(self.means.shape[0])])
        mean = unlabeled.mean(axis=0, keepdims=True)
        components = _principal_components(unlabeled - mean)
        # A network that has hardly learned may have almost the same features for all images.
        least = 1e-6 * max(np.square(features).mean(), 1e-12)
        self.means.assign(means.astype(np.float32))
        self.root.assign(_root_of_precision(features - means[labels], components, least))
        self.unlabeled_mean.assign(mean.astype(np.float32))
        self.unlabeled_root.assign(_root_of_precision(unlabeled - mean, components, least))


def _squared_distances(features: tf.Tensor, means: tf.Variable, root: tf.Variable) -> tf.Tensor:
    """Returns the squared Mahalanobis distances `(batch, count)` of features to some means."""
    root = tf.convert_to_tensor(root)
    features, means = tf.matmul(features, root), tf.matmul(tf.convert_to_tensor(means), root)
    return tf.reduce_sum(tf.square(features[:, None] - means), axis=-1)


def _principal_components(deviations: np.ndarray) -> np.ndarray:
    """Returns the components `(D, C)` along which deviations `(M, D)` from a mean are largest."""
    count = max(1, min(len(deviations) // _IMAGES_PER_COMPONENT, _COMPONENTS))
    _, vectors = np.linalg.eigh(deviations.T @ deviations)
    return vectors[:, -count:]


def _root_of_precision(deviations: np.ndarray, components: np.ndarray, least: float) -> np.ndarray:
    """Returns the root of the precision of deviations `(N, D)` along some components `(D, C)`.

    Returns:
        float32 `(D, D)`, R with R R^T the inverse of the shrunk covariance along the components,
        whose variances are at least `least`. The columns after the first C are zero.
    """
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf(assume_centered=True, store_precision=False).fit(deviations @ components)
    values, vectors = np.linalg.eigh(fitted.covariance_)
    root = np.zeros((len(components), len(components)), np.float32)
    root[:, : len(values)] = components @ (vectors / np.sqrt(np.maximum(values, least)))
    return root
