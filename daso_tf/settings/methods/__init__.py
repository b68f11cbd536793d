"""The methods of the command line: each is one entry, with the flags that fill its arguments.

To add a method to the command, add an entry to the table of its kind, in the file of that kind. The
flags that the entry names are then part of `--help`, of the documentation and of every flag file.
"""

from daso_tf.settings.methods.chosen import (
    FLAGS,
    defaults,
    estimates,
    flags_in_use,
    name_of,
    uses,
    uses_unlabeled_images,
)
from daso_tf.settings.methods.classifiers import CLASSIFIER, CLASSIFIER_WEIGHTS, CLASSIFIERS
from daso_tf.settings.methods.common import (
    BATCH_SIZE,
    CONFIDENCE,
    PRETRAIN_STEPS,
    QUEUE_SIZE,
    UNLABELED_DISTRIBUTION,
    UNLABELED_RATIO,
)
from daso_tf.settings.methods.entry import Context, Entry
from daso_tf.settings.methods.imbalance import (
    BALANCED_HEAD,
    BALANCED_HEADS,
    LOGIT_ADJUSTMENT,
    SUPERVISED_LOSS,
    SUPERVISED_LOSSES,
    TEST_LOGIT_ADJUSTMENT,
)
from daso_tf.settings.methods.learners import LEARNER, LEARNERS, build_learner, published_schedule
from daso_tf.settings.methods.open_sets import OPEN_SET, OPEN_SET_SCORE, OPEN_SETS, open_set_of
from daso_tf.settings.methods.pseudo_labelers import (
    AUTO,
    DISTRIBUTION_TEMPERATURE,
    OF_FROZEN_FEATURES,
    PSEUDO_LABELER,
    PSEUDO_LABELERS,
    SELF_TRAINING,
    SELF_TRAINING_FLAGS,
    aligns,
)
from daso_tf.settings.methods.thresholds import THRESHOLD, THRESHOLDS
from daso_tf.settings.methods.views import (
    CUTOUT_SIZE,
    RESOLUTION,
    WEAK_VIEW,
    WEAK_VIEWS,
    strong_layer,
    weak_layer,
)

__all__ = [
    "AUTO",
    "BALANCED_HEAD",
    "BALANCED_HEADS",
    "BATCH_SIZE",
    "CLASSIFIER",
    "CLASSIFIERS",
    "CLASSIFIER_WEIGHTS",
    "CONFIDENCE",
    "CUTOUT_SIZE",
    "DISTRIBUTION_TEMPERATURE",
    "FLAGS",
    "LEARNER",
    "LEARNERS",
    "LOGIT_ADJUSTMENT",
    "OF_FROZEN_FEATURES",
    "OPEN_SET",
    "OPEN_SETS",
    "OPEN_SET_SCORE",
    "PRETRAIN_STEPS",
    "PSEUDO_LABELER",
    "PSEUDO_LABELERS",
    "QUEUE_SIZE",
    "RESOLUTION",
    "SELF_TRAINING",
    "SELF_TRAINING_FLAGS",
    "SUPERVISED_LOSS",
    "SUPERVISED_LOSSES",
    "TEST_LOGIT_ADJUSTMENT",
    "THRESHOLD",
    "THRESHOLDS",
    "UNLABELED_DISTRIBUTION",
    "UNLABELED_RATIO",
    "WEAK_VIEW",
    "WEAK_VIEWS",
    "Context",
    "Entry",
    "aligns",
    "build_learner",
    "defaults",
    "estimates",
    "flags_in_use",
    "name_of",
    "open_set_of",
    "published_schedule",
    "strong_layer",
    "uses",
    "uses_unlabeled_images",
    "weak_layer",
]
