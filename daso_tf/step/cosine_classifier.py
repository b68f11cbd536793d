"""A classifier that compares directions: its logits do not depend on the length of a feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.keras_versions import scaled_normal


@keras.saving.register_keras_serializable(package="daso_tf")
class CosineClassifier(keras.layers.Layer):
    """Logits are cosine similarities to one direction per class, divided by a temperature.

    A linear classifier that is trained on few images of a class gives this class small weights, and
    answers it rarely. Here all classes have the same length. The temperature is learned: its
    logarithm is a weight that starts at 0, so weight decay pulls it towards its initial value.

    Args:
        units: Number of classes, at least 1.
        temperature: The initial temperature, above 0.
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> classifier = CosineClassifier(2, temperature=0.5)
    >>> classifier.build((None, 2))
    >>> classifier.set_weights([np.array([[3.0, 0.0], [0.0, 1.0]]), np.array(0.0)])
    >>> [round(float(logit), 3) for logit in classifier(tf.constant([[4.0, 3.0]]))[0]]
    [1.6, 1.2]

    Reference:
        Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", CVPR 2018,
        section 3.2.
    """

    def __init__(
        self, units: int, temperature: float = 0.05, dtype: Any = "float32", **kwargs: Any
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.units = checked_whole_number("units", units, least=1)
        self.temperature = checked_number("temperature", temperature, above=0)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the directions and the factor of the temperature."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=scaled_normal(1.0, "fan_avg"),
        )
        self.log_scale = self.add_weight(name="log_scale", shape=(), initializer="zeros")
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the logits.

        Args:
            features: float `(batch, D)`.

        Returns:
            float `(batch, units)`.
        """
        directions = tf.math.l2_normalize(tf.convert_to_tensor(self.kernel), axis=0)
        cosines = tf.matmul(tf.math.l2_normalize(features, axis=-1), directions)
        return cosines * tf.exp(tf.convert_to_tensor(self.log_scale)) / self.temperature

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the logits."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "units": self.units, "temperature": self.temperature}
