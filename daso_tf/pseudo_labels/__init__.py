"""What should an unlabeled image be taught? One file for each answer."""

from daso_tf.pseudo_labels.base import PseudoLabeler, PseudoLabels
from daso_tf.pseudo_labels.darp import DARPPseudoLabeler
from daso_tf.pseudo_labels.daso import DASOPseudoLabeler
from daso_tf.pseudo_labels.debiaspl import DebiasedPseudoLabeler
from daso_tf.pseudo_labels.distribution import PseudoLabelDistribution
from daso_tf.pseudo_labels.distribution_alignment import (
    AlignedPseudoLabeler,
    DistributionAlignment,
)
from daso_tf.pseudo_labels.linear import LinearPseudoLabeler
from daso_tf.pseudo_labels.prototypes import PrototypeClassifier
from daso_tf.pseudo_labels.template_matching import TemplateMatchingPseudoLabeler

__all__ = [
    "AlignedPseudoLabeler",
    "DARPPseudoLabeler",
    "DASOPseudoLabeler",
    "DebiasedPseudoLabeler",
    "DistributionAlignment",
    "LinearPseudoLabeler",
    "PrototypeClassifier",
    "PseudoLabelDistribution",
    "PseudoLabeler",
    "PseudoLabels",
    "TemplateMatchingPseudoLabeler",
]
