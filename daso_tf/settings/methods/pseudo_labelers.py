"""What is an unlabeled image taught?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daso_tf.settings.flag import choice, integer, number, number_or_word, switch
from daso_tf.settings.methods.common import (
    BATCH_SIZE,
    EPOCH_STEPS,
    ESTIMATE_START,
    PRETRAIN_STEPS,
    QUEUE_SIZE,
    UNLABELED_RATIO,
    class_distribution,
    estimated,
    labeled_counts,
    num_unlabeled,
    total_steps,
    unlabeled_alone,
)
from daso_tf.settings.methods.entry import Computed, Context, Entry, share_of_run
from daso_tf.settings.settings import Settings

if TYPE_CHECKING:
    from daso_tf.pseudo_labels.discriminant import Teacher

AUTO = "auto"  # of `--distribution_temperature`

DISTRIBUTION_ALIGNMENT = switch(
    "distribution_alignment",
    None,
    "Scale ReMixMatch's predictions to the class distribution of the labeled images.",
    shown_default="on where labeled and unlabeled images have the same imbalance ratio, but off "
    "with DASO on CIFAR-10",
)

DISTRIBUTION_TEMPERATURE = number_or_word(
    "distribution_temperature",
    1.5,
    "(0, inf)",
    AUTO,
    "Temperature of the blend weights (T_dist). auto is 1.5 where the class distribution of the "
    "unlabeled images, estimated from validation images, is about that of the labeled ones, and "
    "0.3 where it is not.",
)


def _teacher(context: Context) -> Teacher:
    from daso_tf.step import closed_forms

    return closed_forms.teacher(context.data if context.bank is None else context.bank)


def _cdmad_alignment(context: Context) -> list[float] | None:
    """Returns the expected unlabeled images of each class, if CDMAD scales predictions to them."""
    settings = context.settings
    if settings.get("learner") != "remixmatch" or not aligns(settings):
        return None
    counts = context.labeled_counts
    return [count * len(context.data.unlabeled) / sum(counts) for count in counts]


def _batch_ratio(context: Context) -> float:
    """Returns whole batches of unlabeled images per whole batch of labeled images."""
    batch_size, data = context.settings.batch_size, context.data
    of_unlabeled = len(data.unlabeled) // (context.settings.unlabeled_ratio * batch_size)
    return max(of_unlabeled, 1) / max(len(data.labeled) // batch_size, 1)


PSEUDO_LABELERS = {
    "linear": Entry("pseudo_labels.LinearPseudoLabeler"),
    "daso": Entry(
        "pseudo_labels.DASOPseudoLabeler",
        queue_size=QUEUE_SIZE,
        prototype_temperature=number(
            "prototype_temperature",
            0.05,
            "(0, inf)",
            "Temperature of semantic pseudo-labels (T_proto).",
        ),
        distribution_temperature=DISTRIBUTION_TEMPERATURE,
        labeled_distribution=Computed(
            lambda c: c.labeled_counts if c.settings.distribution_temperature == AUTO else None,
            (ESTIMATE_START,),
        ),
        distribution_aware=switch(
            "distribution_aware",
            True,
            "Blend class by class, by the distribution of the pseudo-labels.",
        ),
        blend_weight=number(
            "blend_weight",
            0.5,
            "[0, 1]",
            "Weight of the semantic pseudo-label without --distribution_aware.",
        ),
        alignment_weight=number(
            "alignment_weight", 1.0, "[0, inf)", "Weight of the alignment loss (lambda_align)."
        ),
        pretrain_steps=PRETRAIN_STEPS,
        distribution_period=integer(
            "distribution_period", 100, "[1, inf)", "Steps between updates of the blend weights."
        ),
    ),
    "distribution_alignment": Entry(
        "pseudo_labels.AlignedPseudoLabeler",
        target_distribution=class_distribution,
        estimated=estimated,
    ),
    "darp": Entry(
        "pseudo_labels.DARPPseudoLabeler",
        class_distribution=class_distribution,
        estimated=estimated,
        num_images=num_unlabeled,
        start_step=share_of_run(
            number(
                "darp_start",
                0.4,
                "[0, 1]",
                "Fraction of the run after which DARP refines pseudo-labels.",
            )
        ),
        period=integer("darp_period", 10, "[1, inf)", "Steps between two refinements of DARP."),
        alpha=number(
            "darp_alpha",
            2.0,
            "(0, inf)",
            "DARP keeps for each class at most this many times its estimated number of images.",
        ),
        iterations=integer(
            "darp_iterations", 10, "[1, inf)", "Iterations of one refinement of DARP."
        ),
    ),
    "debiaspl": Entry(
        "pseudo_labels.DebiasedPseudoLabeler",
        strength=number(
            "debiaspl_strength",
            0.4,
            "[0, inf)",
            "Strength with which DebiasPL removes the mean bias of the predictions.",
        ),
    ),
    "simpro": Entry(
        "pseudo_labels.SimProPseudoLabeler",
        frozen_defaults={"simpro_tau": 1.0},
        labeled_counts=labeled_counts,
        batch_ratio=Computed(_batch_ratio, (BATCH_SIZE, UNLABELED_RATIO)),
        tau=number(
            "simpro_tau",
            2.0,
            "[0, inf)",
            "Strength (tau) of the priors of SimPro.",
            shown_default="2; 1 with a frozen encoder",
        ),
        momentum=number(
            "simpro_momentum",
            0.9,
            "[0, 1]",
            "Weight (rho) of the old class distributions when SimPro updates them.",
        ),
        epoch_steps=EPOCH_STEPS,
    ),
    "adello": Entry(
        "pseudo_labels.ADELLOPseudoLabeler",
        labeled_counts=labeled_counts,
        total_steps=total_steps,
        alpha_min=number(
            "adello_alpha",
            0.1,
            "[0, 1]",
            "How much of the unlabeled class distribution ADELLO's target prior has at the end of "
            "the run (alpha_min); 0: the target is uniform.",
        ),
        power=number(
            "adello_power", 2.0, "(0, inf)", "Power of the time with which alpha falls in ADELLO."
        ),
        momentum=number(
            "adello_momentum",
            0.999,
            "[0, 1)",
            "Momentum of ADELLO's estimate of the unlabeled class distribution.",
        ),
        distill_after=integer(
            "adello_distill_after",
            50_000,
            "[0, inf)",
            "Steps before ADELLO teaches images that are not confident.",
        ),
        published_temperature=switch(
            "adello_published_temperature",
            False,
            "Distill in ADELLO with the temperature of the paper, by the estimated distribution, "
            "and not with that of the released configurations, 1.",
        ),
        num_unlabeled=Computed(
            lambda c: unlabeled_alone(c) if c.settings.adello_unlabeled_only else None,
            (
                switch(
                    "adello_unlabeled_only",
                    False,
                    "Leave the labeled images among the unlabeled ones out of ADELLO's estimate.",
                ),
            ),
        ),
    ),
    "cdmad": Entry(
        "pseudo_labels.CDMADPseudoLabeler",
        {"confidence_threshold": 0.0, "sharpening_temperature": 1.0},
        aligned_counts=Computed(_cdmad_alignment, (DISTRIBUTION_ALIGNMENT,)),
        debias_after=integer(
            "cdmad_debias_after",
            100,
            "[0, inf)",
            "CDMAD subtracts the bias in epochs with a larger number, counted from 0.",
        ),
        epoch_steps=EPOCH_STEPS,
    ),
    # The generations of self-training differ in the labeled images that they start with
    # (run/generations.py).
    "crest": Entry("pseudo_labels.LinearPseudoLabeler"),
    "crest_plus": Entry(
        "pseudo_labels.AlignedPseudoLabeler",
        target_distribution=class_distribution,
        estimated=estimated,
        temperature=Computed(lambda c: c.alignment_temperature),
    ),
    "lda_teacher": Entry(
        "pseudo_labels.TeacherPseudoLabeler",
        num_images=num_unlabeled,
        class_distribution=Computed(lambda c: _teacher(c).class_distribution),
        targets=Computed(lambda c: _teacher(c).targets),
    ),
}
# They need the features of a frozen encoder before training starts.
OF_FROZEN_FEATURES = ("lda_teacher",)
SELF_TRAINING = ("crest", "crest_plus")
SELF_TRAINING_FLAGS = (
    integer("generation_steps", 50_000, "[1, inf)", "Steps per generation of CReST and CReST+."),
    number(
        "crest_alpha",
        3.0,
        "(0, inf)",
        "The larger, the more images of frequent classes CReST adds to the labeled ones.",
    ),
    number(
        "crest_temperature",
        0.5,
        "[0, 1]",
        "Temperature of CReST+'s distribution alignment in the last generation.",
    ),
)
PSEUDO_LABELER = choice(
    "pseudo_labeler", "daso", PSEUDO_LABELERS, "How the pseudo-labels of unlabeled images are made."
)


def aligns(settings: Settings) -> bool:
    """Whether ReMixMatch aligns its predictions.

    The published comparison does so where both imbalance ratios are the same, except with DASO on
    CIFAR-10. Unlabeled images that are used as they are have an unknown class distribution.
    """
    if settings.learner != "remixmatch":
        return False
    if settings.distribution_alignment is not None:
        return settings.distribution_alignment
    from daso_tf.pseudo_labels import AlignedPseudoLabeler

    if PSEUDO_LABELERS[settings.pseudo_labeler].make is AlignedPseudoLabeler:
        return False
    same = (
        settings.unlabeled_head > 0
        and settings.unlabeled_imbalance == settings.labeled_imbalance
        and not (
            (settings.reverse_unlabeled or settings.unlabeled_order != "labeled")
            and settings.labeled_imbalance > 1
        )
    )
    return same and not (settings.pseudo_labeler == "daso" and settings.dataset == "cifar10")
