"""Soft pseudo-labels of a teacher that is fixed before training."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform.checks import checked_distribution, checked_whole_number
from daso_tf.pseudo_labels.pseudo_labeler import (
    ALL_IMAGES,
    TWO_CLASSIFIERS,
    PseudoLabeler,
    PseudoLabels,
    checked_num_classes,
)

_MOST_WEIGHT = 5.0  # times the mean


@keras.saving.register_keras_serializable(package="daso_tf")
class TeacherPseudoLabeler(PseudoLabeler):
    """Teaches each unlabeled image what a teacher said of it before training.

    The predictions of the teacher include the class distribution of the unlabeled images. So the
    logarithm of that distribution is added to the logits that are taught, and the logits themselves
    treat all classes alike, as those of `LogitAdjustedLoss` do.

    Args:
        num_images: Number of unlabeled images, at least 1.
        class_distribution: K numbers of at least 0, in any scale: the class distribution that the
            teacher assumes of the unlabeled images.
        targets: float `(num_images, K)`, its predictions; each row sums to 1. They are a weight of
            the layer: a learner that is loaded has them already.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> targets = [[0.9, 0.1], [0.2, 0.8]]
    >>> labeler = TeacherPseudoLabeler(2, class_distribution=[1, 1], targets=targets)
    >>> labeler.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> nothing = tf.fill((1, 2), 0.5)
    >>> labels = labeler(nothing, tf.zeros((1, 4)), step=0, positions=tf.constant([1]))
    >>> [round(float(share), 3) for share in labels.target[0]]
    [0.2, 0.8]
    """

    asks_for = frozenset({"positions", "margins"})
    refuses = MappingProxyType({**TWO_CLASSIFIERS, **ALL_IMAGES})

    def __init__(
        self,
        num_images: int,
        class_distribution: Sequence[float],
        targets: np.ndarray | Sequence[Sequence[float]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_images = checked_whole_number("num_images", num_images, least=1)
        self.class_distribution = checked_distribution("class_distribution", class_distribution)
        self._given = None if targets is None else np.asarray(targets, np.float32)
        shape = (self.num_images, len(self.class_distribution))
        if self._given is not None and self._given.shape != shape:
            raise ValueError(f"targets have shape {self._given.shape}; it must be {shape}.")

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the memory of the teacher's predictions; see `PseudoLabeler`."""
        (_, num_classes), _ = input_shape
        checked_num_classes("class_distribution", self.class_distribution, num_classes)
        uniform = np.full((self.num_images, num_classes), 1.0 / num_classes, np.float32)
        targets = uniform if self._given is None else self._given
        self.targets = self.add_weight(
            name="targets", shape=targets.shape, initializer="zeros", trainable=False
        )
        self.weights_of_images = self.add_weight(
            name="weights_of_images", shape=(self.num_images,), initializer="ones", trainable=False
        )
        self.targets.assign(targets)
        self.weights_of_images.assign(rarity_weights(targets, self.class_distribution))
        self.built = True

    def image_memories(self) -> list[tf.Variable]:
        """Returns the variables with one entry per unlabeled image; see `PseudoLabeler`."""
        return [self.targets, self.weights_of_images]

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Returns the pseudo-labels of the teacher; see `PseudoLabeler.call`.

        Raises:
            ValueError: If `positions` is None.
        """
        target = tf.gather(tf.convert_to_tensor(self.targets), _checked(positions))
        return PseudoLabels.from_target(target, linear=tf.argmax(linear_target, axis=-1))

    def image_weights(self, positions: tf.Tensor | None) -> tf.Tensor:
        """Returns larger weights for images of rare classes; see `rarity_weights`."""
        return tf.gather(tf.convert_to_tensor(self.weights_of_images), _checked(positions))

    def with_margins(self, logits: tf.Tensor) -> tf.Tensor:
        """Adds the logarithm of the class distribution of the unlabeled images."""
        prior = np.asarray(self.class_distribution, np.float64)
        return logits + tf.constant(np.log(np.maximum(prior / prior.sum(), 1e-12)), logits.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer, without the predictions."""
        return {
            **super().get_config(),
            "num_images": self.num_images,
            "class_distribution": self.class_distribution,
        }


def rarity_weights(targets: np.ndarray, class_distribution: Sequence[float]) -> np.ndarray:
    """Returns the weight of each image: the root of its expected inverse class share.

    It is proportional to `sqrt(sum_k p_k / prior_k)`, at most five times the mean, and has a mean
    of 1.

    Args:
        targets: float `(N, K)`, rows sum to 1.
        class_distribution: K numbers of at least 0, in any scale.

    Returns:
        float `(N,)`.

    Example:

    >>> rarity_weights(np.array([[1.0, 0.0], [0.0, 1.0]]), [1, 4]).round(3).tolist()
    [1.333, 0.667]
    """
    prior = np.asarray(class_distribution, np.float64)
    weights = np.sqrt((targets / np.maximum(prior / prior.sum(), 1e-12)).sum(axis=1))
    weights = np.minimum(weights / weights.mean(), _MOST_WEIGHT)
    return weights / weights.mean()


def _checked(positions: tf.Tensor | None) -> tf.Tensor:
    if positions is None:
        raise ValueError(
            "A teacher needs the positions of the unlabeled images of each batch. Create the "
            "batches by daso_tf.data.training_batches(..., with_positions=True)."
        )
    return positions
