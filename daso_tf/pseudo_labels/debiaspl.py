"""DebiasPL: removes the mean bias from the predictions, and adds margins against it to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_number
from daso_tf.pseudo_labels.pseudo_labeler import (
    ALL_IMAGES,
    TWO_CLASSIFIERS,
    PseudoLabeler,
    PseudoLabels,
)

_TINY = 1e-6  # avoids the logarithm of 0 for a class that is never predicted


@keras.saving.register_keras_serializable(package="daso_tf")
class DebiasedPseudoLabeler(PseudoLabeler):
    """Debiased pseudo-labels and the adaptive marginal loss (DebiasPL).

    Let m be the moving average of the mean prediction of a batch. The pseudo-labels are those of
    the weak view's logits minus `strength * log m`, so classes that are predicted often are
    predicted less. The loss uses the strong view's logits plus `strength * log m`, which demands a
    larger margin for classes that are predicted rarely.

    Args:
        strength: lambda of the paper, at least 0.
        momentum: Momentum of the moving average, in [0, 1).
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = DebiasedPseudoLabeler(strength=1.0, momentum=0.0)
    >>> labeler.build([(None, 2), (None, 4)])  # 2 classes, 4 features
    >>> predictions = tf.constant([[0.9, 0.1], [0.7, 0.3]])  # 0.8 and 0.2 on average
    >>> for step in range(2):
    ...     labels = labeler(predictions, tf.zeros((2, 4)), step=step)
    >>> labels.linear.numpy().tolist(), labels.final.numpy().tolist()
    ([0, 0], [0, 1])

    Reference:
        Wang, Wu, Lian and Yu, "Debiased Learning from Naturally Imbalanced Pseudo-Labels", CVPR
        2022, section 4; the default strength is that of the authors' scripts for ImageNet.
    """

    asks_for = frozenset({"margins"})
    refuses = MappingProxyType({**TWO_CLASSIFIERS, **ALL_IMAGES})

    def __init__(self, strength: float = 0.4, momentum: float = 0.999, **kwargs: Any):
        super().__init__(**kwargs)
        self.strength = checked_number("strength", strength, least=0)
        self.momentum = checked_number("momentum", momentum, least=0, below=1)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the moving average; see `PseudoLabeler`."""
        (_, num_classes), _ = input_shape
        self.mean_prediction = self.add_weight(
            name="mean_prediction",
            shape=(num_classes,),
            initializer=keras.initializers.Constant(1.0 / num_classes),
            trainable=False,
        )
        self.built = True

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        prediction = tf.stop_gradient(linear_target)
        # The prediction is softmax(logits); the result is softmax(logits - strength * log m).
        debiased = prediction * tf.exp(-self._bias())
        target = debiased / tf.reduce_sum(debiased, axis=-1, keepdims=True)

        mean = replicas.mean(tf.reduce_mean(prediction, axis=0))
        average = tf.convert_to_tensor(self.mean_prediction)
        self.mean_prediction.assign(self.momentum * average + (1.0 - self.momentum) * mean)
        return PseudoLabels.from_target(target, linear=tf.argmax(prediction, axis=-1))

    def with_margins(self, logits: tf.Tensor) -> tf.Tensor:
        """Adds `strength * log m` to the logits; see `PseudoLabeler.with_margins`."""
        return logits + tf.cast(self._bias(), logits.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {**super().get_config(), "strength": self.strength, "momentum": self.momentum}

    def _bias(self) -> tf.Tensor:
        return self.strength * tf.math.log(tf.maximum(self.mean_prediction, _TINY))
