"""Which classes the pseudo-labels have been lately."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.platform import replicas


@keras.saving.register_keras_serializable(package="daso_tf")
class PseudoLabelDistribution(keras.layers.Layer):
    """The histogram of pseudo-labels over a window of steps.

    Pseudo-labels are counted for `period` steps; then the counts come in force for the next
    `period` steps and counting starts again.

    Args:
        period: Steps in a window, at least 1.

    Example:

    >>> distribution = PseudoLabelDistribution(period=2)
    >>> distribution.build((None, 3))  # 3 classes
    >>> distribution.count(tf.constant([0, 2]), step=0)
    >>> distribution.in_force.numpy().tolist()
    [0.0, 0.0, 0.0]
    >>> distribution.count(tf.constant([2, 2]), step=1)
    >>> distribution.in_force.numpy().tolist()
    [1.0, 0.0, 3.0]

    Reference:
        DASO, CVPR 2022, section 3.3, "Distribution-aware blending".
    """

    def __init__(self, period: int = 100, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        if period < 1:
            raise ValueError(f"The distribution period must be at least 1 step, not {period}.")
        self.period = period

    def build(self, input_shape):
        """Makes the two histograms, from the shape of the logits `(batch, K)`."""
        for name in ("in_force", "counted"):
            weight = self.add_weight(
                name=name, shape=input_shape[-1:], initializer="zeros", trainable=False
            )
            setattr(self, name, weight)
        self.built = True

    def count(self, pseudo_labels: tf.Tensor, step: tf.Tensor) -> None:
        """Counts a step's pseudo-labels, and closes the window where it is full.

        Args:
            pseudo_labels: int `(batch,)`, classes in 0..K-1.
            step: int scalar, the number of steps done before this one.
        """
        num_classes = self.counted.shape[0]
        of_class = tf.reduce_sum(tf.one_hot(pseudo_labels, num_classes), axis=0)
        counted = self.counted + replicas.total(of_class)
        window_full = tf.equal((tf.cast(step, tf.int64) + 1) % self.period, 0)
        self.in_force.assign(tf.where(window_full, counted, tf.convert_to_tensor(self.in_force)))
        self.counted.assign(tf.where(window_full, tf.zeros_like(counted), counted))

    def tempered(self, temperature: float) -> tf.Tensor:
        """Returns `m_k ** (1 / temperature)` over its largest value, the blend weight of a class.

        Args:
            temperature: Above 0; the larger, the more alike the classes.

        Returns:
            float32 `(K,)` in [0, 1]; all 0 while no histogram is in force.
        """
        counts = tf.convert_to_tensor(self.in_force)
        return tf.math.divide_no_nan(counts, tf.reduce_max(counts)) ** (1.0 / temperature)

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "period": self.period}
