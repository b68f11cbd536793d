"""What every threshold is: the answer to "how much is a pseudo-label taught?"."""

from __future__ import annotations

import keras
import tensorflow as tf


class Threshold(keras.layers.Layer):
    """The component that weighs pseudo-labels in the consistency loss.

    FixMatch takes one and calls it once in every step. Whatever a threshold must remember is a
    variable of this layer, made in `build` from the shape of the targets `(batch, K)`, so that
    every way of saving the model saves it.
    """

    # Whether `call` must be told which unlabeled images a batch holds.
    needs_positions = False
    # Names of the losses that `auxiliary_losses` gives back.
    auxiliary_loss_names: tuple[str, ...] = ()

    # Whatever Keras's dtype policy is, what is remembered and compared is float32.
    def __init__(self, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)

    def call(self, target, positions=None) -> tf.Tensor:
        """Weighs the pseudo-labels of a batch; no gradient flows through.

        Args:
            target: float `(batch, K)`, the distribution behind each pseudo-label; rows sum to 1.
            positions: int `(batch,)`, positions of the images among all unlabeled ones, where
                `needs_positions`.

        Returns:
            float32 `(batch,)`, at least 0; 1 teaches it in full.
        """
        raise ValueError(f"{type(self).__name__} does not say how pseudo-labels weigh: `call`.")

    def auxiliary_losses(self, logits: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes losses that the threshold adds, weighted, by name.

        Args:
            logits: float `(batch, K)` of the views that are taught, which carry the gradient.
            mask: float `(batch,)`, what the call of this step gave back.

        Returns:
            Scalars by the name they have in the logs; the same names in every step.
        """
        return {}


def checked_fraction(name: str, value: float) -> float:
    """Returns a number in [0, 1].

    Raises:
        ValueError: If it is none.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], not {value}.")
    return float(value)
