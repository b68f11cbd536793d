"""What a training step computes."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from daso_tf.pseudo_labels import PseudoLabels


class StepOutcome(NamedTuple):
    """What a training step computed.

    Attributes:
        losses: The weighted loss terms by name, scalars; training minimises their sum.
        labeled_logits: float `(batch, K)` of the trained network for the labeled views, or for
            the mixed images that are mostly theirs.
        pseudo_labels: The `PseudoLabels` of the unlabeled batch; None where none are made.
        mask: float `(mu * batch,)`, how much each pseudo-label was taught: 1, 0 where it was not
            confident enough, or a weight; None where all are.
        gradient_norm: Global norm of the gradient of the losses' sum, before weight decay.
    """

    losses: dict[str, tf.Tensor]
    labeled_logits: tf.Tensor
    pseudo_labels: PseudoLabels | None = None
    mask: tf.Tensor | None = None
    gradient_norm: tf.Tensor | None = None


class Outputs(NamedTuple):
    """What the trained network says of one set of views.

    Attributes:
        features: float32 `(batch, D)`, what the encoder makes of them.
        logits: float32 `(batch, K)`, what the classifier makes of the features.
    """

    features: tf.Tensor
    logits: tf.Tensor
