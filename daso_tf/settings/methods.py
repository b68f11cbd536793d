"""The methods of the command line: each is one entry, with the flags that fill its arguments.

To add a method to the command, add an entry to the table of its kind. The flags that the entry
names are then part of `--help`, of the documentation and of every flag file.

An entry names its class, and what makes arguments imports what it needs: so a command can show its
help, or refuse a flag, without importing TensorFlow.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from daso_tf.data import BankedData, SemiSupervisedData
from daso_tf.data.unlabeled_distribution import ESTIMATE, unlabeled_distribution
from daso_tf.settings.flag import Flag, choice, integer, location, number, number_or_word, switch
from daso_tf.settings.settings import Settings

if TYPE_CHECKING:
    from daso_tf.balance import SupervisedLoss
    from daso_tf.learners import Learner
    from daso_tf.open_set import OpenSet
    from daso_tf.pseudo_labels import DistributionAlignment
    from daso_tf.pseudo_labels.discriminant import Teacher

AUTO = "auto"  # of `--distribution_temperature`


class Context(NamedTuple):
    """What the arguments of a method may depend on.

    Attributes:
        settings: The settings of the command.
        data: What the learner will be trained on.
        labeled_counts: Labeled images per class, pseudo-labeled ones of self-training included.
        alignment_temperature: Of the present generation of CReST+, in [0, 1].
        generation_steps: Steps of the present generation; of the run without self-training.
        bank: The feature bank of the run whose network is fine-tuned on images; otherwise None.
    """

    settings: Settings
    data: SemiSupervisedData
    labeled_counts: list[int]
    alignment_temperature: float
    generation_steps: int
    bank: BankedData | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return self.data.num_classes


class Computed(NamedTuple):
    """An argument that is more than the value of one flag.

    Attributes:
        compute: Returns the argument.
        flags: The flags that it depends on and that no other entry of the method names.
    """

    compute: Callable[[Context], Any]
    flags: tuple[Flag, ...] = ()


class Entry:
    """A method as the command knows it: its class, and where each argument comes from.

    Args:
        name: The folder and the name of its class, such as `"thresholds.FixedThreshold"`.
        defaults: Flags that have another default with this method, by name.
        frozen_defaults: Those that it has with a frozen encoder only.
        **arguments: A `Flag`, a `Computed` or a constant for each argument.
    """

    def __init__(
        self,
        name: str,
        defaults: Mapping[str, Any] | None = None,
        frozen_defaults: Mapping[str, Any] | None = None,
        **arguments: Any,
    ):
        self._name = name
        self.defaults = dict(defaults or {})
        self.frozen_defaults = dict(frozen_defaults or {})
        self.arguments = arguments

    @property
    def make(self) -> Any:
        """Its class."""
        folder, _, name = self._name.rpartition(".")
        return getattr(importlib.import_module(f"daso_tf.{folder}"), name)

    @property
    def flags(self) -> Iterator[Flag]:
        """The flags that its arguments depend on."""
        for argument in self.arguments.values():
            if isinstance(argument, Flag):
                yield argument
            elif isinstance(argument, Computed):
                yield from argument.flags

    def build(self, context: Context, **more: Any) -> Any:
        """Makes the method.

        Args:
            context: What its arguments depend on.
            **more: Further arguments.
        """
        return self.make(**{k: _value(v, context) for k, v in self.arguments.items()}, **more)


def _value(argument: Any, context: Context) -> Any:
    if isinstance(argument, Flag):
        return context.settings[argument.name]
    return argument.compute(context) if isinstance(argument, Computed) else argument


def _one_of(flag: Flag, table: Mapping[str, Entry | None]) -> Computed:
    """Returns the argument that is built by the entry that a flag names."""

    def compute(context: Context) -> Any:
        entry = table[context.settings[flag.name]]
        return entry and entry.build(context)

    return Computed(compute, (flag,))


def _share_of_run(flag: Flag) -> Computed:
    """Returns the argument that is a number of steps, given as a fraction of the run."""
    return Computed(lambda c: round(c.settings[flag.name] * c.settings.steps), (flag,))


# ---- What depends on the data

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
_class_distribution = Computed(
    lambda c: unlabeled_distribution(c.settings.unlabeled_distribution, c.data),
    (UNLABELED_DISTRIBUTION, ESTIMATE_START),
)
_estimated = Computed(lambda c: c.settings.unlabeled_distribution == ESTIMATE)
_labeled_counts = Computed(lambda c: c.labeled_counts)
_num_unlabeled = Computed(lambda c: len(c.data.unlabeled))


def _teacher(context: Context) -> Teacher:
    from daso_tf.step import closed_forms

    return closed_forms.teacher(context.data if context.bank is None else context.bank)


def _unlabeled_alone(context: Context) -> int | None:
    """Returns how many of the unlabeled images are no labeled ones; None where no one is."""
    data = context.data
    return len(data.unlabeled) - data.labeled_among_unlabeled or None


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


_steps = Computed(lambda c: c.settings.steps)

# ---- Flags of several methods

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

# ---- What is an unlabeled image taught?

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
        target_distribution=_class_distribution,
        estimated=_estimated,
    ),
    "darp": Entry(
        "pseudo_labels.DARPPseudoLabeler",
        class_distribution=_class_distribution,
        estimated=_estimated,
        num_images=_num_unlabeled,
        start_step=_share_of_run(
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
        labeled_counts=_labeled_counts,
        batch_ratio=Computed(_batch_ratio, (BATCH_SIZE, UNLABELED_RATIO)),
        tau=number("simpro_tau", 2.0, "[0, inf)", "Strength (tau) of the priors of SimPro."),
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
        labeled_counts=_labeled_counts,
        total_steps=_steps,
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
            lambda c: _unlabeled_alone(c) if c.settings.adello_unlabeled_only else None,
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
        target_distribution=_class_distribution,
        estimated=_estimated,
        temperature=Computed(lambda c: c.alignment_temperature),
    ),
    "lda_teacher": Entry(
        "pseudo_labels.TeacherPseudoLabeler",
        num_images=_num_unlabeled,
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

# ---- How strongly is a pseudo-label taught?

THRESHOLDS = {
    "fixed": Entry("thresholds.FixedThreshold", confidence=CONFIDENCE),
    "flexmatch": Entry(
        "thresholds.FlexMatchThreshold", num_images=_num_unlabeled, confidence=CONFIDENCE
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
        labeled_counts=_labeled_counts,
        num_images=_num_unlabeled,
        confidence=CONFIDENCE,
        epoch_steps=EPOCH_STEPS,
    ),
    "saw": Entry(
        "thresholds.SAWWeight",
        num_images=_num_unlabeled,
        confidence=CONFIDENCE,
        labeled_counts=_labeled_counts,
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

# ---- How is the imbalance of the labeled images countered?

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
    "class_balanced": Entry("balance.ClassBalancedLoss", labeled_counts=_labeled_counts, beta=BETA),
    "ldam": Entry(
        "balance.LDAMLoss",
        labeled_counts=_labeled_counts,
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
        labeled_counts=_labeled_counts,
        total_steps=_steps,
        confidence_threshold=CONFIDENCE,
        update_every=EPOCH_STEPS,
    ),
    "acr": Entry(
        "balance.ACR",
        labeled_counts=_labeled_counts,
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
            lambda c: _unlabeled_alone(c) if c.data.labeled_among_unlabeled else None
        ),
    ),
    "cossl": Entry(
        "balance.CoSSL",
        labeled_counts=_labeled_counts,
        teach_after=_share_of_run(
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


# ---- Does an unlabeled image belong to any class?

OPEN_SET = switch(
    "open_set",
    False,
    "Keep unlabeled images that belong to no class out of what is taught and out of the estimates "
    "of the class distribution, from the first evaluation on; needs validation images.",
)
_rejected = number(
    "open_set_rejected",
    0.05,
    "(0, 1)",
    "Share of the validation images that --open_set wrongly takes for images of no class.",
)
OPEN_SETS = {
    "energy": Entry("open_set.Energy", rejected=_rejected),
    "largest_probability": Entry("open_set.LargestProbability", rejected=_rejected),
    "prototypes": Entry("open_set.PrototypeDistance", rejected=_rejected),
    "one_vs_all": Entry("open_set.OneVsAll", rejected=_rejected),
    "relative_distance": Entry("open_set.RelativeDistance", rejected=_rejected),
}
OPEN_SET_SCORE = choice(
    "open_set_score",
    "relative_distance",
    OPEN_SETS,
    "By what --open_set tells images of no class: energy of the logits, largest probability, "
    "distance of the features to the nearest prototype, heads that tell each class from all others "
    "(as in OpenMatch), or distance to the nearest class minus that to all unlabeled images.",
)


def open_set_of(context: Context) -> OpenSet:
    """Makes the score of images of no class that the settings name."""
    return OPEN_SETS[context.settings.open_set_score].build(context)


# ---- How does a feature become logits?

CLASSIFIERS: dict[str, Entry | None] = {
    "linear": None,
    "cosine": Entry(
        "step.cosine_classifier.CosineClassifier",
        units=Computed(lambda c: c.num_classes),
        temperature=number(
            "cosine_temperature",
            0.05,
            "(0, inf)",
            "Initial temperature of --classifier=cosine, which is learned.",
        ),
    ),
}
CLASSIFIER = choice(
    "classifier",
    "linear",
    CLASSIFIERS,
    "The last layer, from features to logits: a linear one, or the cosine similarity to a "
    "direction of each class. One hidden layer below it is --adapter=mlp.",
)
CLASSIFIER_WEIGHTS = choice(
    "classifier_weights",
    "random",
    ["random", "probe"],
    "Initial weights of the classifier: random; or, with --freeze_encoder, those of logistic "
    "regression of the labeled images, with --classifier=cosine their class means.",
)
_classifier = _one_of(CLASSIFIER, CLASSIFIERS)


def _supervised_loss(context: Context) -> SupervisedLoss:
    if context.settings.logit_adjustment:
        from daso_tf.balance import LogitAdjustedLoss

        return LogitAdjustedLoss(context.labeled_counts, context.settings.logit_adjustment)
    return _one_of(SUPERVISED_LOSS, SUPERVISED_LOSSES).compute(context)


# ---- How does a raw image become a view?

HORIZONTAL_FLIP = switch(
    "horizontal_flip", True, "Mirror half of the views; off for digits and letters."
)
RESOLUTION = integer(
    "resolution",
    32,
    "[8, 1024]",
    "Height and width in pixels of the encoder's input.",
    shown_default="32; efficientnet_lite0: 96; keras_hub: that of the preset",
)
CROP_PADDING = integer(
    "crop_padding",
    None,
    "[0, 512]",
    "Pixels by which padded_crop shifts a view at most.",
    shown_default="an eighth of the side",
)
WEAK_VIEWS = {
    "padded_crop": Entry(
        "augment.Weak",
        horizontal_flip=HORIZONTAL_FLIP,
        padding=Computed(
            lambda c: 0.125 if c.settings.crop_padding is None else c.settings.crop_padding,
            (CROP_PADDING,),
        ),
    ),
    "random_resized_crop": Entry(
        "augment.RandomResizedCrop", size=RESOLUTION, horizontal_flip=HORIZONTAL_FLIP
    ),
}
WEAK_VIEW = choice(
    "weak_view",
    "padded_crop",
    WEAK_VIEWS,
    "How weak views are cropped: shifted by up to --crop_padding, or a random part of any size.",
)
CUTOUT_SIZE = integer(
    "cutout_size", 16, "[0, 1024]", "Side in pixels of the square cut out of strong views."
)


def weak_layer(context: Context) -> Any:
    """Makes weak views: of images, or by choosing one of those that a feature bank stores."""
    if isinstance(context.data, BankedData):
        from daso_tf.step.stored_views import stored_weak

        return stored_weak(context.data)
    return WEAK_VIEWS[context.settings.weak_view].build(context)


def strong_layer(context: Context) -> Any:
    """Makes strong views of weak ones; as `weak_layer`."""
    if isinstance(context.data, BankedData):
        from daso_tf.step.stored_views import stored_strong

        return stored_strong(context.data)
    from daso_tf.augment import RandAugment

    return RandAugment(cutout=context.settings.cutout_size)


_strong = Computed(strong_layer, (CUTOUT_SIZE,))

# ---- Which views are made, which losses are summed?

_pseudo_labeler = _one_of(PSEUDO_LABELER, PSEUDO_LABELERS)
_threshold = _one_of(THRESHOLD, THRESHOLDS)
_balanced_head = _one_of(BALANCED_HEAD, BALANCED_HEADS)
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


def _distribution_alignment(context: Context) -> DistributionAlignment | None:
    if not aligns(context.settings) or context.settings.pseudo_labeler == "cdmad":
        return None
    from daso_tf.pseudo_labels import DistributionAlignment

    return DistributionAlignment(
        _class_distribution.compute(context), estimated=_estimated.compute(context)
    )


def uses(settings: Settings, flag: Flag) -> bool:
    """Whether the method that settings ask for depends on a flag.

    Args:
        settings: Those of a training run.
        flag: A flag of a learner or of a pseudo-labeler.
    """
    learner = LEARNERS[settings.learner]
    if flag is UNLABELED_DISTRIBUTION and settings.learner == "remixmatch" and aligns(settings):
        return True
    if flag is not UNLABELED_DISTRIBUTION and flag in learner.flags:
        return True
    labels = "pseudo_labeler" in learner.arguments
    return labels and flag in PSEUDO_LABELERS[settings.pseudo_labeler].flags


def estimates(settings: Settings) -> bool:
    """Whether the class distribution of the unlabeled images is estimated during training.

    Args:
        settings: Those of a training run.
    """
    if settings.unlabeled_distribution == ESTIMATE:
        return True
    chooses = settings.distribution_temperature == AUTO
    return chooses and uses(settings, DISTRIBUTION_TEMPERATURE)


def flags_in_use(settings: Settings) -> frozenset[str]:
    """Returns the names of the flags on which the chosen methods depend."""
    entries: list[Entry | None] = [LEARNERS[settings.learner]]
    chosen: dict[str, Mapping[str, Entry | None]] = {
        PSEUDO_LABELER.name: PSEUDO_LABELERS,
        THRESHOLD.name: THRESHOLDS,
        BALANCED_HEAD.name: BALANCED_HEADS,
    }
    arguments = LEARNERS[settings.learner].arguments
    entries += [table[settings[name]] for name, table in chosen.items() if name in arguments]
    entries += [SUPERVISED_LOSSES[settings.supervised_loss], CLASSIFIERS[settings.classifier]]
    if settings.open_set:
        entries.append(OPEN_SETS[settings.open_set_score])
    names = {flag.name for entry in entries if entry is not None for flag in entry.flags}
    if settings.pseudo_labeler in SELF_TRAINING:
        names |= {flag.name for flag in SELF_TRAINING_FLAGS}
    return frozenset(names)


def uses_unlabeled_images(settings: Settings) -> bool:
    """Whether the learner that settings ask for learns from unlabeled images."""
    return "unlabeled_weight" in LEARNERS[settings.learner].arguments


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
        strong=_strong,
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
        strong=_strong,
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
        strong=_strong,
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
_TABLES: tuple[Mapping[str, Entry | None], ...] = (
    PSEUDO_LABELERS,
    THRESHOLDS,
    SUPERVISED_LOSSES,
    BALANCED_HEADS,
    CLASSIFIERS,
    OPEN_SETS,
    LEARNERS,
)
# The names of the flags of all methods: each has an effect only where its method is chosen. The
# size of a batch, which some methods know, has one everywhere.
FLAGS = (
    frozenset(
        flag.name
        for table in _TABLES
        for entry in table.values()
        if entry is not None
        for flag in entry.flags
    )
    | {flag.name for flag in SELF_TRAINING_FLAGS}
) - {BATCH_SIZE.name, UNLABELED_RATIO.name}


# What suits a small network on frozen features, with every learner: it overfits within some hundred
# steps unless it is regularized strongly, and it predicts rare classes too rarely.
FROZEN_DEFAULTS: dict[str, Any] = {
    "logit_adjustment": 1.0,
    "weight_decay": 0.03,
    "learning_rate": 0.03,  # for batches of 64; a shorter batch has its share of it
    "cosine": "half",
    "warmup_steps": 0,
    "learning_rate_drops": (),
    "ema_decay": 0.0,
    "steps": 800,
    "evaluate_every": 200,
}


def defaults(settings: Settings) -> dict[str, Any]:
    """Returns the defaults of flags that depend on other flags."""
    chosen: dict[str, Any] = {}
    if settings.freeze_encoder:
        of_step = {"learner", "pseudo_labeler", "threshold", "balanced_head", "open_set"}
        others = of_step & settings.given
        if not others:
            chosen["learner"] = "student"
    entry = LEARNERS[settings.with_defaults(chosen).learner]
    of_methods = {**entry.defaults, **PSEUDO_LABELERS[settings.pseudo_labeler].defaults}
    if settings.freeze_encoder:
        frozen = {**of_methods, **FROZEN_DEFAULTS, **entry.frozen_defaults, **chosen}
        frozen["learning_rate"] *= min(settings.batch_size / BATCH_SIZE.default, 1.0)
        if _counters_imbalance(settings):
            del frozen["logit_adjustment"]  # both would counter it twice
        return frozen
    return of_methods


def _counters_imbalance(settings: Settings) -> bool:
    """Whether settings have something else than logit adjustment against the imbalance."""
    return (
        settings.supervised_loss != "cross_entropy"
        or settings.balanced_head != "none"
        or settings.test_logit_adjustment > 0
        or "balance" in PSEUDO_LABELERS[settings.pseudo_labeler].make.refuses
    )


LEARNER = choice("learner", "fixmatch", LEARNERS, "Which views are made and which losses summed.")


def build_learner(context: Context, **arguments: Any) -> Learner:
    """Makes the learner that the settings describe, not compiled yet.

    Args:
        context: What its arguments depend on.
        **arguments: Those that do not depend on the method, such as the encoder.
    """
    return LEARNERS[context.settings.learner].build(
        context,
        weak=weak_layer(context),
        supervised_loss=_supervised_loss(context),
        classifier=_classifier.compute(context),
        **arguments,
    )
