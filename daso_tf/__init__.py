"""Semi-supervised learning on imbalanced data, for TensorFlow and Keras."""

from daso_tf import augment, balance, data, encoders, pseudo_labels, thresholds
from daso_tf.learners import (
    DASO,
    USADTM,
    ClassifierRetraining,
    FixMatch,
    Learner,
    MeanTeacher,
    MixMatch,
    PseudoLabel,
    ReMixMatch,
    Supervised,
)

__all__ = [
    "DASO",
    "USADTM",
    "ClassifierRetraining",
    "FixMatch",
    "Learner",
    "MeanTeacher",
    "MixMatch",
    "PseudoLabel",
    "ReMixMatch",
    "Supervised",
    "augment",
    "balance",
    "data",
    "encoders",
    "pseudo_labels",
    "thresholds",
]
__version__ = "0.1.0"
