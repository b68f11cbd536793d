"""DASO as in the main tables of its paper: FixMatch with the DASO pseudo-labeler."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from daso_tf.learners.fixmatch import FixMatch
from daso_tf.pseudo_labels import DASOPseudoLabeler
from daso_tf.pseudo_labels.daso import AUTO


@keras.saving.register_keras_serializable(package="daso_tf")
class DASO(FixMatch):
    """FixMatch with the pseudo-labels of DASO.

    `DASO(encoder, 10, queue_size=64, ...)` is the same as
    `FixMatch(encoder, 10, pseudo_labeler=DASOPseudoLabeler(queue_size=64), ...)`.

    Args:
        pseudo_labeler: A `DASOPseudoLabeler`, instead of its arguments.

    Raises:
        ValueError: If an argument is outside its range, or two parts cannot be combined.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(depth=10, width=1)
    >>> model = DASO(encoder, 10, pretrain_steps=100, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.pseudo_labeler.pretrain_steps
    100

    Reference:
        Oh, Kim and Kweon, "DASO: Distribution-Aware Semantics-Oriented Pseudo-label for
        Imbalanced Semi-Supervised Learning", CVPR 2022.
    """

    passes_arguments_to = (DASOPseudoLabeler,)

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: DASOPseudoLabeler | str | None = None,
        **kwargs: Any,
    ):
        names = inspect.signature(DASOPseudoLabeler).parameters.keys() - {"kwargs", "name"}
        of_labeler = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        if pseudo_labeler is not None and of_labeler:
            raise ValueError(
                f"Give either pseudo_labeler or its arguments ({', '.join(of_labeler)})."
            )
        if pseudo_labeler is None:
            if of_labeler.get("distribution_temperature") == AUTO:
                data = kwargs.get("data")
                counts = kwargs.get("labeled_counts") if data is None else data.labeled_counts
                of_labeler.setdefault("labeled_distribution", counts)
            pseudo_labeler = DASOPseudoLabeler(**of_labeler)
        super().__init__(encoder, num_classes, pseudo_labeler, **kwargs)
