"""Which views are made, and which losses are summed?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daso_tf.settings.flag import choice, integer, number
from daso_tf.settings.methods.classifiers import classifier
from daso_tf.settings.methods.common import (
    CONFIDENCE,
    ESTIMATE_START,
    PRETRAIN_STEPS,
    UNLABELED_DISTRIBUTION,
    class_distribution,
    estimated,
)
from daso_tf.settings.methods.entry import Computed, Context, Entry, one_of
from daso_tf.settings.methods.imbalance import BALANCED_HEAD, BALANCED_HEADS, supervised_loss
from daso_tf.settings.methods.open_sets import OPEN_SET, OPEN_SET_SCORE, open_set_of
from daso_tf.settings.methods.pseudo_labelers import (
    DISTRIBUTION_ALIGNMENT,
    PSEUDO_LABELER,
    PSEUDO_LABELERS,
    aligns,
)
from daso_tf.settings.methods.thresholds import THRESHOLD, THRESHOLDS
from daso_tf.settings.methods.views import strong, weak_layer

if TYPE_CHECKING:
    from daso_tf.learners import Learner
    from daso_tf.pseudo_labels import DistributionAlignment


_pseudo_labeler = one_of(PSEUDO_LABELER, PSEUDO_LABELERS)
_threshold = one_of(THRESHOLD, THRESHOLDS)
_balanced_head = one_of(BALANCED_HEAD, BALANCED_HEADS)
_open_set = Computed(
    lambda c: open_set_of(c) if c.settings.open_set else None, (OPEN_SET, OPEN_SET_SCORE)
)
RAMP_FRACTION = number(
    "ramp_fraction",
    0.0,
    "[0, 1]",
    "Fraction of the run, or of each generation of CReST, in which --unlabeled_weight grows from "
    "0.",
)
_unlabeled: dict[str, Any] = {
    "unlabeled_weight": number(
        "unlabeled_weight", 1.0, "[0, inf)", "Weight of the consistency loss (lambda_u)."
    ),
    "ramp_steps": Computed(
        lambda c: round(c.settings.ramp_fraction * c.generation_steps), (RAMP_FRACTION,)
    ),
}
_mixed: dict[str, Any] = {
    "sharpening_temperature": number(
        "sharpening_temperature",
        0.5,
        "(0, inf)",
        "Temperature with which MixMatch and ReMixMatch sharpen their predictions.",
    ),
    "mixup_beta": number("mixup_beta", 0.5, "(0, inf)", "Parameter of MixUp's Beta distribution."),
}


def _distribution_alignment(context: Context) -> DistributionAlignment | None:
    if not aligns(context.settings) or context.settings.pseudo_labeler == "cdmad":
        return None
    from daso_tf.pseudo_labels import DistributionAlignment

    return DistributionAlignment(
        class_distribution.compute(context), estimated=estimated.compute(context)
    )


# The defaults are those of DASO's comparison of methods.
LEARNERS = {
    "supervised": Entry(
        "learners.Supervised",
        {"pseudo_labeler": "linear", "ema_decay": 0.0, "learning_rate": 0.1},
    ),
    "pseudo_label": Entry(
        "learners.PseudoLabel",
        {
            "pseudo_labeler": "linear",
            "ramp_fraction": 0.4,
            "alignment_weight": 0.0,
            "unlabeled_ratio": 1,
        },
        pseudo_labeler=_pseudo_labeler,
        threshold=_threshold,
        open_set=_open_set,
        **_unlabeled,
    ),
    "mean_teacher": Entry(
        "learners.MeanTeacher",
        {
            "unlabeled_weight": 50.0,
            "ramp_fraction": 0.4,
            "alignment_weight": 0.0,
            "unlabeled_ratio": 1,
        },
        pseudo_labeler=_pseudo_labeler,
        **_unlabeled,
    ),
    "mixmatch": Entry(
        "learners.MixMatch",
        {
            "unlabeled_weight": 100.0,
            "ramp_fraction": 0.016,
            "alignment_weight": 0.0,
            "unlabeled_ratio": 1,
        },
        pseudo_labeler=_pseudo_labeler,
        **_unlabeled,
        **_mixed,
    ),
    "remixmatch": Entry(
        "learners.ReMixMatch",
        {
            "unlabeled_weight": 1.5,
            "ramp_fraction": 0.016,
            "mixup_beta": 0.75,
            "unlabeled_ratio": 1,
        },
        pseudo_labeler=_pseudo_labeler,
        **_unlabeled,
        **_mixed,
        strong=strong,
        balanced_head=_balanced_head,
        distribution_alignment=Computed(
            _distribution_alignment,
            (DISTRIBUTION_ALIGNMENT, UNLABELED_DISTRIBUTION, ESTIMATE_START),
        ),
        premixup_weight=number(
            "premixup_weight",
            0.5,
            "[0, inf)",
            "Weight of ReMixMatch's loss of strong views before MixUp.",
        ),
        rotation_weight=number(
            "rotation_weight", 0.5, "[0, inf)", "Weight of ReMixMatch's rotation loss."
        ),
    ),
    "fixmatch": Entry(
        "learners.FixMatch",
        pseudo_labeler=_pseudo_labeler,
        **_unlabeled,
        strong=strong,
        strong_views=integer(
            "strong_views",
            None,
            "[1, 2]",
            "Strong views of each unlabeled image in FixMatch.",
            shown_default="2 with simpro, cdmad and acr, otherwise 1",
        ),
        balanced_head=_balanced_head,
        threshold=_threshold,
        open_set=_open_set,
    ),
    "student": Entry(
        "learners.Student",
        frozen_defaults={
            "pseudo_labeler": "lda_teacher",
            "unlabeled_weight": 2.0,
            "unlabeled_ratio": 3,
            "weight_decay": 0.01,
        },
        pseudo_labeler=_pseudo_labeler,
        open_set=_open_set,
        **_unlabeled,
    ),
    "usadtm": Entry(
        "learners.USADTM",
        {"pseudo_labeler": "linear", "confidence_threshold": 0.85, "pretrain_steps": 500},
        **_unlabeled,
        strong=strong,
        confidence_threshold=CONFIDENCE,
        mutual_information_weight=number(
            "mutual_information_weight",
            0.1,
            "[0, inf)",
            "Weight of USADTM's mutual information loss.",
        ),
        queue_size=Computed(lambda c: [5 * count for count in c.labeled_counts]),
        pretrain_steps=PRETRAIN_STEPS,
    ),
    "crt": Entry("learners.ClassifierRetraining", {"pseudo_labeler": "linear"}),
}

LEARNER = choice("learner", "fixmatch", LEARNERS, "Which views are made and which losses summed.")


def published_schedule(learner: str, steps: int) -> tuple[int, tuple[int, ...]]:
    """Returns warm-up steps and drops of the learning rate in DASO's comparison of methods.

    Args:
        learner: A key of `LEARNERS`. Only `supervised` has a schedule: a warm-up of 2.5 % of the
            steps, and drops after 80 and 90 % (6,250, 199,999 and 225,000 of 250,000).
        steps: Steps of the run.
    """
    if learner != "supervised":
        return 0, ()
    drops = (round(0.8 * steps) - 1, round(0.9 * steps))
    return round(0.025 * steps), drops if drops[0] > 0 else ()


def build_learner(context: Context, **arguments: Any) -> Learner:
    """Makes the learner that the settings describe, not compiled yet.

    Args:
        context: What its arguments depend on.
        **arguments: Those that do not depend on the method, such as the encoder.
    """
    return LEARNERS[context.settings.learner].build(
        context,
        weak=weak_layer(context),
        supervised_loss=supervised_loss(context),
        classifier=classifier.compute(context),
        **arguments,
    )
