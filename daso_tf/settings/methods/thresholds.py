"""How strongly is a pseudo-label taught?"""

from __future__ import annotations

from daso_tf.settings.flag import choice, number, switch
from daso_tf.settings.methods.common import CONFIDENCE, EPOCH_STEPS, labeled_counts, num_unlabeled
from daso_tf.settings.methods.entry import Entry

THRESHOLDS = {
    "fixed": Entry("thresholds.FixedThreshold", confidence=CONFIDENCE),
    "flexmatch": Entry(
        "thresholds.FlexMatchThreshold", num_images=num_unlabeled, confidence=CONFIDENCE
    ),
    "freematch": Entry(
        "thresholds.FreeMatchThreshold",
        fairness_weight=number(
            "freematch_fairness", 0.01, "[0, inf)", "Weight of FreeMatch's fairness loss."
        ),
    ),
    "softmatch": Entry(
        "thresholds.SoftMatchWeight",
        alignment=switch(
            "softmatch_alignment",
            True,
            "Weight in SoftMatch by predictions that are aligned to the uniform distribution.",
        ),
    ),
    "adsh": Entry(
        "thresholds.ADSHThreshold",
        labeled_counts=labeled_counts,
        num_images=num_unlabeled,
        confidence=CONFIDENCE,
        epoch_steps=EPOCH_STEPS,
    ),
    "saw": Entry(
        "thresholds.SAWWeight",
        num_images=num_unlabeled,
        confidence=CONFIDENCE,
        labeled_counts=labeled_counts,
        epoch_steps=EPOCH_STEPS,
    ),
}
THRESHOLD = choice(
    "threshold",
    "fixed",
    THRESHOLDS,
    "How strongly each pseudo-label is taught: fully from --confidence_threshold on (fixed), or as "
    "in the named paper.",
)
