"""Which views are made, which losses are summed? One file for each learner."""

from daso_tf.learners.classifier_retraining import ClassifierRetraining
from daso_tf.learners.daso import DASO
from daso_tf.learners.fixmatch import FixMatch, Views
from daso_tf.learners.mean_teacher import MeanTeacher
from daso_tf.learners.mixmatch import MixMatch
from daso_tf.learners.pseudo_label import PseudoLabel
from daso_tf.learners.remixmatch import ReMixMatch
from daso_tf.learners.supervised import Supervised
from daso_tf.learners.usadtm import USADTM
from daso_tf.step.learner import Learner
from daso_tf.step.outcome import Outputs, StepOutcome
from daso_tf.step.pseudo_labeling import PseudoLabelingLearner

__all__ = [
    "DASO",
    "USADTM",
    "ClassifierRetraining",
    "FixMatch",
    "Learner",
    "MeanTeacher",
    "MixMatch",
    "Outputs",
    "PseudoLabel",
    "PseudoLabelingLearner",
    "ReMixMatch",
    "StepOutcome",
    "Supervised",
    "Views",
]
