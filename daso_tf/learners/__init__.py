"""Which views are made, which losses are summed? One file for each learner."""

from daso_tf.learners.base import Learner, StepOutcome
from daso_tf.learners.daso import DASO
from daso_tf.learners.fixmatch import FixMatch, Views
from daso_tf.learners.pseudo_labeling import PseudoLabelingLearner

__all__ = ["DASO", "FixMatch", "Learner", "PseudoLabelingLearner", "StepOutcome", "Views"]
