"""What is an unlabeled image taught? Each file is one answer."""

from daso_tf.pseudo_labels.darp import DARPPseudoLabeler
from daso_tf.pseudo_labels.daso import DASOPseudoLabeler, PseudoLabelDistribution
from daso_tf.pseudo_labels.debiaspl import DebiasedPseudoLabeler
from daso_tf.pseudo_labels.distribution_alignment import (
    AlignedPseudoLabeler,
    DistributionAlignment,
)
from daso_tf.pseudo_labels.linear import LinearPseudoLabeler
from daso_tf.pseudo_labels.prototypes import PrototypeClassifier
from daso_tf.pseudo_labels.pseudo_labeler import PseudoLabeler, PseudoLabels
from daso_tf.pseudo_labels.teacher import TeacherPseudoLabeler
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
    "TeacherPseudoLabeler",
    "TemplateMatchingPseudoLabeler",
]
