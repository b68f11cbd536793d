"""What a training step computes."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from daso_tf.pseudo_labels import PseudoLabels


class StepOutcome(NamedTuple):
    """What a training step computed.

    Attributes:
        losses: The weighted loss terms by name, scalars; training minimizes their sum.
        labeled_logits: float `(batch, K)` of the trained network for the labeled views, or, with
            MixUp, for the mixed images that consist mostly of labeled ones.
        pseudo_labels: The `PseudoLabels` of the unlabeled batch; None where none are made.
        weights: float `(mu * batch,)`, how strongly each pseudo-label was taught, 0 for not at all;
            None where all were taught fully.
        gradient_norm: Global norm of the gradient of the losses' sum, before weight decay.
    """

    losses: dict[str, tf.Tensor]
    labeled_logits: tf.Tensor
    pseudo_labels: PseudoLabels | None = None
    weights: tf.Tensor | None = None
    gradient_norm: tf.Tensor | None = None

    def of_known_images(self, belongs: tf.Tensor) -> StepOutcome:
        """Returns the outcome without the pseudo-labels of images that belong to no class.

        Args:
            belongs: float `(mu * batch,)`, 0 for these images, else 1.

        Returns:
            The same with a final pseudo-label of -1 for these images, which nothing counts.
        """
        if self.pseudo_labels is None:
            return self
        final = tf.where(belongs > 0, self.pseudo_labels.final, tf.constant(-1, tf.int64))
        return self._replace(pseudo_labels=self.pseudo_labels._replace(final=final))


class Outputs(NamedTuple):
    """What a network computes for one set of views.

    Attributes:
        features: float32 `(batch, D)`, the encoder's.
        logits: float32 `(batch, K)`, the classifier's.
    """

    features: tf.Tensor
    logits: tf.Tensor
