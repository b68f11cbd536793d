"""Everything that `import daso_tf` offers. Importing it registers all classes with Keras."""

import sys

from daso_tf.platform import quiet

with quiet.start():
    import tensorflow  # noqa: F401  # before everything else, so that a command starts quietly

from daso_tf import (
    augment,
    balance,
    data,
    encoders,
    learners,
    open_set,
    pseudo_labels,
    thresholds,
)
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
    Student,
    Supervised,
)
from daso_tf.settings import by_name as _by_name  # noqa: F401  # registers parts by name
from daso_tf.settings import optimizers  # its schedules are registered, too
from daso_tf.step import losses, metrics
from daso_tf.step.feature_bank import feature_bank

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
    "Student",
    "Supervised",
    "augment",
    "balance",
    "data",
    "encoders",
    "feature_bank",
    "learners",
    "losses",
    "metrics",
    "open_set",
    "optimizers",
    "pseudo_labels",
    "thresholds",
]

# Public modules that are files of `step/` and `settings/`: `import daso_tf.losses` works, too.
for _module in (losses, metrics, optimizers):
    sys.modules[f"daso_tf.{_module.__name__.rpartition('.')[2]}"] = _module
