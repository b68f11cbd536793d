"""From the flags to a compiled learner: adding a method is adding an entry here."""

from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf import augment, encoders, optimizers
from daso_tf.balance import LogitAdjustedLoss, SupervisedLoss
from daso_tf.data import SemiSupervisedData
from daso_tf.generations import Generation
from daso_tf.learners import (
    USADTM,
    FixMatch,
    Learner,
    MeanTeacher,
    MixMatch,
    PseudoLabel,
    ReMixMatch,
    Supervised,
)
from daso_tf.learning_rate import learning_rate
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    DASOPseudoLabeler,
    DistributionAlignment,
    LinearPseudoLabeler,
)
from daso_tf.pseudo_labels.crest import alignment_temperature


class Method(NamedTuple):
    """A learner as the command knows it.

    Attributes:
        learner: Its class.
        arguments: Its arguments beside those that every learner has, each a flag's name or one of
            those that `_argument` makes.
        defaults: Flags whose value, unless it is given, is another one under this learner.
    """

    learner: type[Learner]
    arguments: tuple[str, ...]
    defaults: dict[str, str | float | bool]


_UNLABELED = ("unlabeled_weight", "ramp_steps")
_PSEUDO_LABELED = ("pseudo_labeler", *_UNLABELED)
_MIXED = ("sharpening_temperature", "mixup_beta")

# The defaults are those of DASO's comparison of methods.
LEARNERS = {
    "supervised": Method(Supervised, (), {"pseudo_labeler": "linear"}),
    "pseudo_label": Method(
        PseudoLabel,
        (*_PSEUDO_LABELED, "confidence_threshold"),
        {"pseudo_labeler": "linear", "ramp_fraction": 0.4, "alignment_weight": 0.0},
    ),
    "mean_teacher": Method(
        MeanTeacher,
        _PSEUDO_LABELED,
        {"unlabeled_weight": 50.0, "ramp_fraction": 0.4, "alignment_weight": 0.0},
    ),
    "mixmatch": Method(
        MixMatch,
        (*_PSEUDO_LABELED, *_MIXED),
        {"unlabeled_weight": 100.0, "ramp_fraction": 0.016, "alignment_weight": 0.0},
    ),
    "remixmatch": Method(
        ReMixMatch,
        (
            *_PSEUDO_LABELED,
            *_MIXED,
            "strong",
            "distribution_alignment",
            "premixup_weight",
            "rotation_weight",
        ),
        {
            "unlabeled_weight": 1.5,
            "ramp_fraction": 0.016,
            "mixup_beta": 0.75,
            "distribution_alignment": True,
        },
    ),
    "fixmatch": Method(FixMatch, (*_PSEUDO_LABELED, "strong", "confidence_threshold"), {}),
    "usadtm": Method(
        USADTM,
        (
            *_UNLABELED,
            "strong",
            "confidence_threshold",
            "mutual_information_weight",
            "queue_size",
            "pretrain_steps",
        ),
        {"pseudo_labeler": "linear", "confidence_threshold": 0.85, "pretrain_steps": 500},
    ),
}

WEAK_VIEWS = {
    "padded_crop": lambda flags: augment.Weak(horizontal_flip=flags.horizontal_flip),
    "random_resized_crop": lambda flags: augment.RandomResizedCrop(
        flags.resolution, horizontal_flip=flags.horizontal_flip
    ),
}

# Generations of self-training differ in the labeled images that they begin with (train.py).
SELF_TRAINING = ("crest", "crest_plus")

PSEUDO_LABELERS = {
    "crest": lambda flags, data, generation: LinearPseudoLabeler(),
    "crest_plus": lambda flags, data, generation: AlignedPseudoLabeler(
        data.labeled_counts,
        temperature=alignment_temperature(
            generation.number, generation.count, flags.crest_temperature
        ),
    ),
    "linear": lambda flags, data, generation: LinearPseudoLabeler(),
    "daso": lambda flags, data, generation: DASOPseudoLabeler(
        queue_size=flags.queue_size,
        prototype_temperature=flags.prototype_temperature,
        distribution_temperature=flags.distribution_temperature,
        distribution_aware=flags.distribution_aware,
        blend_weight=flags.blend_weight,
        alignment_weight=flags.alignment_weight,
        pretrain_steps=flags.pretrain_steps,
        distribution_period=flags.distribution_period,
    ),
    "distribution_alignment": lambda flags, data, generation: AlignedPseudoLabeler(
        data.labeled_counts
    ),
}


def supervised_loss(flags, data: SemiSupervisedData) -> SupervisedLoss:
    """Returns what the labeled images cost, as the flags say; arguments as `build_learner`."""
    if flags.logit_adjustment:
        return LogitAdjustedLoss(data.labeled_counts.tolist(), flags.logit_adjustment)
    return SupervisedLoss()


def build_learner(
    flags,
    data: SemiSupervisedData,
    generation: Generation | None = None,
    generation_data: SemiSupervisedData | None = None,
) -> keras.Model:
    """Makes the learner that the flags describe, compiled, ready for `fit`.

    Args:
        flags: an object with the settings of `daso_tf.flags` as attributes.
        data: what it will be trained on; gives classes, their counts and channel statistics.
        generation: the generation of self-training that it is for; by default the only one.
        generation_data: the data with what that generation takes for labeled images, too.

    Returns:
        A compiled `daso_tf.learners` model.

    Raises:
        ValueError: the flags do not go together.
    """
    generation = generation or Generation.at(0, flags.steps, flags.steps)
    refusal = LEARNERS[flags.learner].learner.refuses_pseudo_labeler
    if refusal and flags.pseudo_labeler != "linear":
        raise ValueError(
            f"--pseudo_labeler={flags.pseudo_labeler} does not go with --learner={flags.learner}: "
            f"{refusal}. Leave it out, or choose another learner."
        )
    encoder = encoders.build(
        flags.encoder, flags.resolution, data.mean, data.std, weights=flags.encoder_weights
    )
    rate = learning_rate(
        flags.learning_rate,
        flags.warmup_steps,
        [int(step) for step in flags.learning_rate_drops],
        flags.learning_rate_drop,
    )
    optimizer, learners_weight_decay = optimizers.build(
        flags.optimizer, rate, flags.momentum, flags.weight_decay
    )
    learner_class, arguments, _ = LEARNERS[flags.learner]
    learner = learner_class(
        encoder,
        data.num_classes,
        **{name: _argument(name, flags, data, generation) for name in arguments},
        weak=WEAK_VIEWS[flags.weak_view](flags),
        resolution=flags.resolution,
        mean=data.mean,
        std=data.std,
        weight_decay=learners_weight_decay,
        ema_decay=flags.ema_decay,
        supervised_loss=supervised_loss(flags, generation_data or data),
        first_step=generation.first_step,
        class_names=data.class_names,
        seed=flags.seed,
    )
    # Measured on 2 CPU cores, WRN-10-1 on 16 x 16 pixels: 164 ms a step without XLA, 218 ms with.
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    jit_compile = {"auto": on_gpu, "true": True, "false": False}[flags.jit_compile]
    learner.compile(optimizer=optimizer, jit_compile=jit_compile)
    return learner


def _argument(name: str, flags, data: SemiSupervisedData, generation: Generation):
    """Returns a learner's argument as the flags say."""
    if name == "pseudo_labeler":
        return PSEUDO_LABELERS[flags.pseudo_labeler](flags, data, generation)
    if name == "distribution_alignment":
        return DistributionAlignment(data.labeled_counts) if flags.distribution_alignment else None
    if name == "strong":
        return augment.RandAugment(cutout=flags.cutout_size)
    if name == "ramp_steps":
        return round(flags.ramp_fraction * flags.steps)
    return getattr(flags, name)
