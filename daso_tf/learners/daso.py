"""DASO as the paper's main tables have it: FixMatch with the DASO pseudo-labeler."""

from __future__ import annotations

import inspect

import keras

from daso_tf.learners.fixmatch import FixMatch
from daso_tf.pseudo_labels import DASOPseudoLabeler


@keras.saving.register_keras_serializable(package="daso_tf")
class DASO(FixMatch):
    """FixMatch whose pseudo-labels are DASO's.

    `DASO(encoder, 10, queue_size=64)` is
    `FixMatch(encoder, 10, pseudo_labeler=DASOPseudoLabeler(queue_size=64))`.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        pseudo_labeler: A `DASOPseudoLabeler`, instead of its arguments.
        **kwargs: The arguments of `DASOPseudoLabeler` and of `FixMatch`.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(depth=10, width=1)
    >>> model = DASO(encoder, num_classes=10, pretrain_steps=100)
    >>> model.pseudo_labeler.pretrain_steps
    100

    Reference:
        Oh, Kim and Kweon, "DASO: Distribution-Aware Semantics-Oriented Pseudo-label for
        Imbalanced Semi-Supervised Learning", CVPR 2022.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: DASOPseudoLabeler | None = None,
        **kwargs,
    ):
        names = inspect.signature(DASOPseudoLabeler).parameters.keys() - {"kwargs"}
        labeler_arguments = {key: kwargs.pop(key) for key in names & kwargs.keys()}
        if pseudo_labeler is not None and labeler_arguments:
            raise ValueError(
                f"Give either pseudo_labeler or its arguments ({', '.join(labeler_arguments)})."
            )
        if pseudo_labeler is None:
            pseudo_labeler = DASOPseudoLabeler(**labeler_arguments)
        super().__init__(encoder, num_classes, pseudo_labeler, **kwargs)
