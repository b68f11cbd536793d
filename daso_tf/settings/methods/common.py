"""Flags and arguments of several kinds of methods."""

from __future__ import annotations

from daso_tf.data.unlabeled_distribution import ESTIMATE, unlabeled_distribution
from daso_tf.settings.flag import integer, location, number
from daso_tf.settings.methods.entry import Computed, Context

BATCH_SIZE = integer("batch_size", 64, "[1, inf)", "Labeled images per step (B).")
UNLABELED_RATIO = integer(
    "unlabeled_ratio", 2, "[1, inf)", "Unlabeled images per labeled image of a step (mu)."
)

CONFIDENCE = number(
    "confidence_threshold",
    0.95,
    "[0, 1]",
    "Least confidence of the pseudo-labels that are taught.",
)
PRETRAIN_STEPS = integer(
    "pretrain_steps",
    5000,
    "[0, inf)",
    "Steps before semantic pseudo-labels are used; by default a tenth of --steps where the run is "
    "not longer than this.",
)
QUEUE_SIZE = integer("queue_size", 256, "[1, inf)", "Labeled features that are kept per class (Q).")
EPOCH_STEPS = integer(
    "epoch_steps",
    500,
    "[1, inf)",
    "Steps of an epoch, after which ABC, ACR, ADSH, CDMAD, SAW and SimPro change what they do.",
)
BETA = number(
    "class_balance_beta",
    0.999,
    "[0, 1)",
    "Parameter (beta) of the effective number of images; 0 weights all classes the same.",
)

UNLABELED_DISTRIBUTION = location(
    "unlabeled_distribution",
    "labeled",
    "Class distribution of the unlabeled images: labeled (that of the labeled images), known, "
    "estimate (during training, from validation images), or a JSON or CSV file. With estimate, "
    "logit adjustment answers for it.",
)
ESTIMATE_START = number(
    "estimate_start",
    0.2,
    "[0, 1]",
    "Fraction of the run after which every evaluation estimates the class distribution of the "
    "unlabeled images, if a flag asks for it.",
)
class_distribution = Computed(
    lambda c: unlabeled_distribution(c.settings.unlabeled_distribution, c.data),
    (UNLABELED_DISTRIBUTION, ESTIMATE_START),
)
estimated = Computed(lambda c: c.settings.unlabeled_distribution == ESTIMATE)
labeled_counts = Computed(lambda c: c.labeled_counts)
num_unlabeled = Computed(lambda c: len(c.data.unlabeled))
total_steps = Computed(lambda c: c.settings.steps)


def unlabeled_alone(context: Context) -> int | None:
    """Returns how many of the unlabeled images are no labeled ones; None where no one is."""
    data = context.data
    return len(data.unlabeled) - data.labeled_among_unlabeled or None
