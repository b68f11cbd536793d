"""What is an unlabeled image taught? Each file is one answer."""

from daso_tf.pseudo_labels.adello import ADELLOPseudoLabeler
from daso_tf.pseudo_labels.cdmad import CDMADPseudoLabeler
from daso_tf.pseudo_labels.darp import DARPPseudoLabeler
from daso_tf.pseudo_labels.daso import DASOPseudoLabeler, PseudoLabelDistribution
from daso_tf.pseudo_labels.debiaspl import DebiasedPseudoLabeler
from daso_tf.pseudo_labels.distribution_alignment import (
    AlignedPseudoLabeler,
    DistributionAlignment,
)
from daso_tf.pseudo_labels.linear import LinearPseudoLabeler
from daso_tf.pseudo_labels.prototypes import PrototypeClassifier
from daso_tf.pseudo_labels.pseudo_labeler import Logits, PseudoLabeler, PseudoLabels
from daso_tf.pseudo_labels.simpro import SimProPseudoLabeler
from daso_tf.pseudo_labels.teacher import TeacherPseudoLabeler
from daso_tf.pseudo_labels.template_matching import TemplateMatchingPseudoLabeler

__all__ = [
    "ADELLOPseudoLabeler",
    "AlignedPseudoLabeler",
    "CDMADPseudoLabeler",
    "DARPPseudoLabeler",
    "DASOPseudoLabeler",
    "DebiasedPseudoLabeler",
    "DistributionAlignment",
    "LinearPseudoLabeler",
    "Logits",
    "PrototypeClassifier",
    "PseudoLabelDistribution",
    "PseudoLabeler",
    "PseudoLabels",
    "SimProPseudoLabeler",
    "TeacherPseudoLabeler",
    "TemplateMatchingPseudoLabeler",
]
