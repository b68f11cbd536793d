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


class Outputs(NamedTuple):
    """What the trained network computes for one set of views.

    Attributes:
        features: float32 `(batch, D)`, the encoder's.
        logits: float32 `(batch, K)`, the classifier's.
    """

    features: tf.Tensor
    logits: tf.Tensor
