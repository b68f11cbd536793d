"""Small networks from the features of a frozen encoder to the features of a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import draws
from daso_tf.platform.checks import checked_number, checked_whole_number

ADAPTERS = ("none", "mlp")
_PIECE = 4096  # rows that are read at a time, as a bank may not fit into memory


def adapter(
    kind: str, statistics: FeatureStatistics, units: int = 256, dropout: float = 0.5
) -> keras.Model:
    """Makes the trainable encoder of a learner with a frozen encoder.

    Args:
        kind: `"none"`, which only standardizes, so that the learner's classifier is a linear one on
            the frozen features; or `"mlp"`: dropout, a hidden layer with ReLU, dropout.
        statistics: Those of the frozen features.
        units: Width of the hidden layer, at least 1.
        dropout: Share of the inputs and of the hidden units that a training step leaves out, in
            [0, 1).

    Returns:
        A `keras.Model` from features `(batch, F)` to features `(batch, D)`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> statistics = FeatureStatistics.of([np.random.rand(9, 8)])
    >>> adapter("mlp", statistics, units=4).output_shape
    (None, 4)
    """
    if kind not in ADAPTERS:
        raise ValueError(f"There is no adapter {kind!r}. Allowed: {', '.join(ADAPTERS)}.")
    units = checked_whole_number("units", units, least=1)
    features = keras.Input((len(statistics.mean),))
    standardize = StandardizedFeatures(root=statistics.root)
    x = standardize(features)
    if kind == "mlp":
        x = StepDropout(dropout)(x)
        x = keras.layers.Dense(units, activation="relu")(x)
        x = StepDropout(dropout)(x)
    standardize.set_weights([statistics.mean, statistics.std])
    return keras.Model(features, x, name="adapter")


class FeatureStatistics:
    """Mean and standard deviation of features, of their square roots where none is negative.

    Features behind a ReLU have many small values and few large ones; their roots are spread more
    evenly.

    Args:
        root: Whether the square root is taken first.
        mean: float `(F,)`.
        std: float `(F,)`, above 0.
    """

    def __init__(self, root: bool, mean: np.ndarray, std: np.ndarray):
        self.root = root
        self.mean = mean
        self.std = std

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> FeatureStatistics:
        """Computes them.

        Args:
            parts: Arrays of shape (N, F), which may be memory-mapped.

        Example:

        >>> FeatureStatistics.of([np.array([[1.0], [9.0]])]).mean
        array([2.])
        """
        root = all(part.min(initial=0) >= 0 for part in parts)

        def pieces() -> Iterator[np.ndarray]:
            for part in parts:
                for start in range(0, len(part), _PIECE):
                    piece = np.asarray(part[start : start + _PIECE], np.float64)
                    yield np.sqrt(piece) if root else piece

        count = sum(map(len, parts))
        mean = sum(piece.sum(axis=0) for piece in pieces()) / count
        variance = sum(np.square(piece - mean).sum(axis=0) for piece in pieces()) / count
        # A feature that never changes stays 0.
        return cls(root, np.asarray(mean), np.where(variance > 1e-12, np.sqrt(variance), 1.0))

    def standardized(self, features: np.ndarray) -> np.ndarray:
        """Returns features as `StandardizedFeatures` computes them, in float64.

        Args:
            features: float `(..., F)`.
        """
        features = np.asarray(features, np.float64)
        if self.root:
            features = np.sqrt(np.maximum(features, 0.0))
        return (features - self.mean) / self.std


@keras.saving.register_keras_serializable(package="daso_tf")
class StandardizedFeatures(keras.layers.Layer):
    """Subtracts the mean of features and divides by their standard deviation.

    Both are weights that training does not change; they are 0 and 1 until they are set.

    Args:
        root: Whether the square root of the features is taken first, of 0 where they are negative.
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Example:

    >>> StandardizedFeatures(root=True)(tf.constant([[4.0, 9.0]])).numpy().tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, root: bool = False, dtype: Any = "float32", **kwargs: Any):
        super().__init__(dtype=dtype, **kwargs)
        self.root = bool(root)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates mean and standard deviation."""
        shape = (input_shape[-1],)
        self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros", trainable=False)
        self.std = self.add_weight(name="std", shape=shape, initializer="ones", trainable=False)
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Standardizes features.

        Args:
            features: float `(batch, F)`.

        Returns:
            float `(batch, F)`.
        """
        if self.root:
            features = tf.sqrt(tf.maximum(features, 0.0))
        return (features - tf.convert_to_tensor(self.mean)) / tf.convert_to_tensor(self.std)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the features, which does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "root": self.root}


@keras.saving.register_keras_serializable(package="daso_tf")
class StepDropout(keras.layers.Layer):
    """Dropout whose draws derive from the seed and the step of a learner, as all its draws do.

    So an interrupted training continues bit for bit, and all devices draw the same.

    Args:
        rate: Share of the values that a training step sets to 0, in [0, 1). The others are divided
            by `1 - rate`.
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If the rate is outside its range.

    Example:

    >>> StepDropout(0.5)(tf.ones((1, 3)), training=False).numpy().tolist()
    [[1.0, 1.0, 1.0]]
    """

    def __init__(self, rate: float = 0.5, dtype: Any = "float32", **kwargs: Any):
        super().__init__(dtype=dtype, **kwargs)
        self.rate = checked_number("rate", rate, least=0, below=1)

    def call(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Sets some values to 0 in training.

        Args:
            features: float `(batch, F)`.
            training: Whether this is a training step.
        """
        if not training or not self.rate:
            return features
        count, length = tf.shape(features)[0], features.shape[-1]
        kept = draws.uniform(draws.next_seed(), draws.DROPOUT, count, length) >= self.rate
        return tf.where(kept, features / (1.0 - self.rate), tf.zeros_like(features))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the features, which does not change."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate}
