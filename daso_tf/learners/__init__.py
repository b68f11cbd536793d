"""Which views are made, which losses are summed? One file per learner."""

from daso_tf.learners.classifier_retraining import ClassifierRetraining
from daso_tf.learners.daso import DASO
from daso_tf.learners.fixmatch import FixMatch, FixMatchTwoViews, FixMatchViews
from daso_tf.learners.mean_teacher import MeanTeacher
from daso_tf.learners.mixmatch import MixMatch
from daso_tf.learners.pseudo_label import PseudoLabel
from daso_tf.learners.remixmatch import ReMixMatch
from daso_tf.learners.student import Student
from daso_tf.learners.supervised import Supervised
from daso_tf.learners.usadtm import USADTM
from daso_tf.step.learner import Learner
from daso_tf.step.outcome import Outputs, StepOutcome

__all__ = [
    "DASO",
    "USADTM",
    "ClassifierRetraining",
    "FixMatch",
    "FixMatchTwoViews",
    "FixMatchViews",
    "Learner",
    "MeanTeacher",
    "MixMatch",
    "Outputs",
    "PseudoLabel",
    "ReMixMatch",
    "StepOutcome",
    "Student",
    "Supervised",
]

_RENAMED = {
    "PseudoLabelingLearner": "Learner, which takes a pseudo_labeler",
    "Views": "FixMatchViews",
}


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        raise AttributeError(f"daso_tf.learners.{name} is now daso_tf.learners.{_RENAMED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
