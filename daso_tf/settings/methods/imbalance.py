"""How is the imbalance of the labeled images countered?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daso_tf.settings.flag import choice, integer, number, switch
from daso_tf.settings.methods.common import (
    BETA,
    CONFIDENCE,
    EPOCH_STEPS,
    labeled_counts,
    total_steps,
    unlabeled_alone,
)
from daso_tf.settings.methods.entry import Computed, Context, Entry, one_of, share_of_run

if TYPE_CHECKING:
    from daso_tf.balance import SupervisedLoss


LOGIT_ADJUSTMENT = number(
    "logit_adjustment", 0.0, "[0, inf)", "Strength (tau) of logit adjustment in the loss."
)
TEST_LOGIT_ADJUSTMENT = number(
    "test_logit_adjustment",
    0.0,
    "[0, inf)",
    "Strength (tau) of logit adjustment in the predictions of the trained model.",
    free=True,
)
SUPERVISED_LOSSES = {
    "cross_entropy": Entry("balance.SupervisedLoss"),
    "class_balanced": Entry("balance.ClassBalancedLoss", labeled_counts=labeled_counts, beta=BETA),
    "ldam": Entry(
        "balance.LDAMLoss",
        labeled_counts=labeled_counts,
        max_margin=number(
            "ldam_max_margin", 0.5, "(0, inf)", "Margin of the rarest class in LDAM."
        ),
        scale=number(
            "ldam_scale",
            1.0,
            "(0, inf)",
            "Factor of the logits in LDAM; DASO's comparison uses 30 with --warmup_steps.",
        ),
        reweight_after=integer(
            "ldam_reweight_after", 200_000, "[0, inf)", "Steps before LDAM-DRW weights the classes."
        ),
        beta=BETA,
    ),
}
SUPERVISED_LOSS = choice(
    "supervised_loss", "cross_entropy", SUPERVISED_LOSSES, "Loss of the labeled images."
)
BALANCED_HEADS: dict[str, Entry | None] = {
    "none": None,
    "abc": Entry(
        "balance.ABC",
        labeled_counts=labeled_counts,
        total_steps=total_steps,
        confidence_threshold=CONFIDENCE,
        update_every=EPOCH_STEPS,
    ),
    "acr": Entry(
        "balance.ACR",
        labeled_counts=labeled_counts,
        tau=number(
            "acr_tau",
            2.0,
            "[0, inf)",
            "Largest strength of the adjustment of ACR's targets (tau1).",
        ),
        target_tau=number(
            "acr_target_tau",
            2.0,
            "[0, inf)",
            "Strength of the adjustment of the targets of ACR's balanced classifier (tau12).",
        ),
        loss_tau=number(
            "acr_loss_tau",
            2.0,
            "[0, inf)",
            "Strength of logit adjustment in the loss of ACR's balanced classifier (tau2).",
        ),
        confidence_threshold=CONFIDENCE,
        momentum=number(
            "acr_momentum",
            0.99,
            "[0, 1)",
            "Momentum (rho) of ACR's estimate of the unlabeled class distribution.",
        ),
        adapts=switch(
            "acr_adapts",
            True,
            "Let the strength of ACR's adjustment follow the estimate of the unlabeled class "
            "distribution.",
        ),
        estimate_after=integer(
            "acr_estimate_after",
            5,
            "[0, inf)",
            "Number of the last epoch, from 0, in which ACR does not estimate yet.",
        ),
        epoch_steps=EPOCH_STEPS,
        num_unlabeled=Computed(
            lambda c: unlabeled_alone(c) if c.data.labeled_among_unlabeled else None
        ),
    ),
    "cossl": Entry(
        "balance.CoSSL",
        labeled_counts=labeled_counts,
        teach_after=share_of_run(
            number(
                "cossl_start",
                0.8,
                "[0, 1]",
                "Fraction of the run after which CoSSL's classifier makes the pseudo-labels.",
            )
        ),
        least_share=number(
            "cossl_least_share",
            0.6,
            "[0, 1]",
            "Least share of its own feature that CoSSL leaves a labeled image.",
        ),
        warmup_steps=integer(
            "cossl_warmup_steps",
            5000,
            "[0, inf)",
            "Steps before --cossl_start in which CoSSL's classifier already learns.",
        ),
    ),
}
BALANCED_HEAD = choice(
    "balanced_head",
    "none",
    BALANCED_HEADS,
    "A second, balanced classifier, which makes the predictions instead of the first.",
)


def supervised_loss(context: Context) -> SupervisedLoss:
    """Makes the loss of the labeled images that the settings name."""
    if context.settings.logit_adjustment:
        from daso_tf.balance import LogitAdjustedLoss

        return LogitAdjustedLoss(context.labeled_counts, context.settings.logit_adjustment)
    return one_of(SUPERVISED_LOSS, SUPERVISED_LOSSES).compute(context)
