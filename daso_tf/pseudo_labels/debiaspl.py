"""DebiasPL: predictions without their mean bias, and margins against that bias in the loss."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.pseudo_labels.base import (
    ONE_CLASSIFIER,
    PseudoLabeler,
    PseudoLabels,
    from_target,
)

_TINY = 1e-6  # keeps a class that is never predicted from dividing by zero


@keras.saving.register_keras_serializable(package="daso_tf")
class DebiasedPseudoLabeler(PseudoLabeler):
    """Debiased pseudo-labels, and the adaptive marginal loss (DebiasPL).

    With m the moving average of the mean prediction of a batch, the logits of the weak view are
    taken less `strength * log m`: classes that are predicted often anyway are predicted less. The
    logits of the strong view are taken plus the same, so that the loss asks rarely predicted
    classes for a larger margin.

    Args:
        strength: lambda of the paper, at least 0.
        momentum: Of the moving average, in [0, 1).

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
        2022, section 4; the strength is that of the authors' scripts for ImageNet.
    """

    asks_for = frozenset({"margins"})
    refuses = ONE_CLASSIFIER

    def __init__(self, strength: float = 0.4, momentum: float = 0.999, **kwargs):
        super().__init__(**kwargs)
        if not strength >= 0:
            raise ValueError(f"strength must be at least 0, not {strength}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}.")
        self.strength = float(strength)
        self.momentum = float(momentum)

    def build(self, input_shape):
        """Makes the average, from the shapes of logits `(batch, K)` and features `(batch, D)`."""
        (_, num_classes), _ = input_shape
        self.mean_prediction = self.add_weight(
            name="mean_prediction",
            shape=(num_classes,),
            initializer=keras.initializers.Constant(1.0 / num_classes),
            trainable=False,
        )
        self.built = True

    def call(self, linear_target, features, step, positions=None) -> PseudoLabels:
        """Makes the pseudo-labels; see `PseudoLabeler.call`."""
        prediction = tf.stop_gradient(linear_target)
        # softmax(logits - strength * bias), of what is the softmax of the logits already.
        debiased = prediction * tf.exp(-self._bias())
        target = debiased / tf.reduce_sum(debiased, axis=-1, keepdims=True)

        mean = replicas.mean(tf.reduce_mean(prediction, axis=0))
        average = tf.convert_to_tensor(self.mean_prediction)
        self.mean_prediction.assign(self.momentum * average + (1.0 - self.momentum) * mean)
        linear = tf.argmax(prediction, axis=-1)
        return from_target(target, linear=linear, semantic=-tf.ones_like(linear))

    def with_margins(self, logits):
        """Adds what asks rarely predicted classes for a margin; see `PseudoLabeler`."""
        return logits + tf.cast(self._bias(), logits.dtype)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "strength": self.strength, "momentum": self.momentum}

    def _bias(self) -> tf.Tensor:
        return self.strength * tf.math.log(tf.maximum(self.mean_prediction, _TINY))
