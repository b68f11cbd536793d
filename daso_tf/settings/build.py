"""From the flags to a compiled learner: adding a method is adding an entry here."""

from pathlib import Path
from typing import Any, NamedTuple

import keras

from daso_tf import augment, encoders
from daso_tf.balance import (
    ABC,
    ClassBalancedLoss,
    CoSSL,
    LDAMLoss,
    LogitAdjustedLoss,
    SupervisedLoss,
)
from daso_tf.data import SemiSupervisedData
from daso_tf.data.unlabeled_distribution import unlabeled_distribution
from daso_tf.learners import (
    USADTM,
    ClassifierRetraining,
    FixMatch,
    Learner,
    MeanTeacher,
    MixMatch,
    PseudoLabel,
    ReMixMatch,
    Supervised,
)
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    DARPPseudoLabeler,
    DASOPseudoLabeler,
    DebiasedPseudoLabeler,
    DistributionAlignment,
    LinearPseudoLabeler,
)
from daso_tf.pseudo_labels.crest import alignment_temperature
from daso_tf.run.checkpoints import CheckpointError, Checkpoints
from daso_tf.run.generations import Generation
from daso_tf.settings import compilation, optimizers
from daso_tf.settings.learning_rate import learning_rate
from daso_tf.thresholds import (
    ADSHThreshold,
    FlexMatchThreshold,
    FreeMatchThreshold,
    SAWWeight,
    SoftMatchWeight,
)


class Part(NamedTuple):
    """What a learner is given, as the command knows it.

    Attributes:
        made_by: Its class.
        arguments: The arguments of that, each a flag's name or one of `_VALUES`.
    """

    made_by: type
    arguments: tuple[str, ...] = ()


class Method(NamedTuple):
    """A learner as the command knows it.

    Attributes:
        learner: Its class.
        arguments: Its arguments beside those that every learner has, each a flag's name or one of
            `_VALUES`.
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
            "balanced_head",
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
    "fixmatch": Method(
        FixMatch, (*_PSEUDO_LABELED, "strong", "balanced_head", "confidence_threshold"), {}
    ),
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
    "crt": Method(ClassifierRetraining, (), {"pseudo_labeler": "linear"}),
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
    "linear": Part(LinearPseudoLabeler),
    "daso": Part(
        DASOPseudoLabeler,
        (
            "queue_size",
            "prototype_temperature",
            "distribution_temperature",
            "distribution_aware",
            "blend_weight",
            "alignment_weight",
            "pretrain_steps",
            "distribution_period",
        ),
    ),
    "distribution_alignment": Part(AlignedPseudoLabeler, ("target_distribution",)),
    "darp": Part(
        DARPPseudoLabeler,
        ("class_distribution", "num_images", "start_step", "period", "alpha", "iterations"),
    ),
    "debiaspl": Part(DebiasedPseudoLabeler, ("strength",)),
    "crest": Part(LinearPseudoLabeler),
    "crest_plus": Part(AlignedPseudoLabeler, ("target_distribution", "temperature")),
}

THRESHOLDS = {
    "flexmatch": Part(FlexMatchThreshold, ("num_images", "confidence")),
    "freematch": Part(FreeMatchThreshold, ("fairness_weight",)),
    "softmatch": Part(SoftMatchWeight),
    "adsh": Part(ADSHThreshold, ("labeled_counts", "num_images", "confidence")),
    "saw": Part(SAWWeight, ("num_images", "confidence")),
}

SUPERVISED_LOSSES = {
    "cross_entropy": Part(SupervisedLoss),
    "class_balanced": Part(ClassBalancedLoss, ("labeled_counts", "beta")),
    "ldam": Part(LDAMLoss, ("labeled_counts", "max_margin", "scale", "reweight_after", "beta")),
}

BALANCED_HEADS = {
    "abc": Part(ABC, ("labeled_counts", "total_steps", "confidence_threshold")),
    "cossl": Part(CoSSL, ("labeled_counts", "teach_after", "least_share")),
}


class _Setting(NamedTuple):
    """All that arguments depend on; see `build_learner`."""

    flags: Any
    data: SemiSupervisedData
    generation: Generation
    trained_on: SemiSupervisedData

    def values(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Returns arguments by name."""
        return {
            name: _VALUES[name](self) if name in _VALUES else getattr(self.flags, name)
            for name in names
        }

    def unlabeled_distribution(self) -> list[float]:
        """Returns the unlabeled images of each class, known or supposed."""
        return unlabeled_distribution(self.flags.unlabeled_distribution, self.data)

    def make(self, part: Part) -> Any:
        """Makes a part of the learner."""
        return part.made_by(**self.values(part.arguments))


# Arguments that are more than the flag of the same name.
_VALUES = {
    "alpha": lambda setting: setting.flags.darp_alpha,
    "balanced_head": lambda setting: (
        None
        if setting.flags.balanced_head == "none"
        else setting.make(BALANCED_HEADS[setting.flags.balanced_head])
    ),
    "class_distribution": lambda setting: setting.unlabeled_distribution(),
    "beta": lambda setting: setting.flags.class_balance_beta,
    "confidence": lambda setting: setting.flags.confidence_threshold,
    "distribution_alignment": lambda setting: (
        DistributionAlignment(setting.unlabeled_distribution())
        if setting.flags.distribution_alignment
        else None
    ),
    "fairness_weight": lambda setting: setting.flags.freematch_fairness,
    "iterations": lambda setting: setting.flags.darp_iterations,
    "labeled_counts": lambda setting: setting.trained_on.labeled_counts.tolist(),
    "least_share": lambda setting: setting.flags.cossl_least_share,
    "max_margin": lambda setting: setting.flags.ldam_max_margin,
    "num_images": lambda setting: len(setting.data.unlabeled),
    "period": lambda setting: setting.flags.darp_period,
    "pseudo_labeler": lambda setting: setting.make(PSEUDO_LABELERS[setting.flags.pseudo_labeler]),
    "ramp_steps": lambda setting: round(setting.flags.ramp_fraction * setting.flags.steps),
    "reweight_after": lambda setting: setting.flags.ldam_reweight_after,
    "scale": lambda setting: setting.flags.ldam_scale,
    "start_step": lambda setting: round(setting.flags.darp_start * setting.flags.steps),
    "strength": lambda setting: setting.flags.debiaspl_strength,
    "strong": lambda setting: augment.RandAugment(cutout=setting.flags.cutout_size),
    "target_distribution": lambda setting: setting.unlabeled_distribution(),
    "teach_after": lambda setting: round(setting.flags.cossl_start * setting.flags.steps),
    "temperature": lambda setting: alignment_temperature(
        setting.generation.number, setting.generation.count, setting.flags.crest_temperature
    ),
    "total_steps": lambda setting: setting.flags.steps,
}


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
    """
    generation = generation or Generation.at(0, flags.steps, flags.steps)
    setting = _Setting(flags, data, generation, generation_data or data)
    encoder = encoders.build(
        flags.encoder,
        flags.resolution,
        data.mean,
        data.std,
        weights=flags.encoder_weights,
        dtype=None if flags.mixed_precision == "none" else f"mixed_{flags.mixed_precision}",
        synchronized_batch_norm=flags.synchronized_batch_norm,
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
    if flags.from_model_dir:
        _take_encoder(Path(flags.from_model_dir), encoder)
    learner_class, names, _ = LEARNERS[flags.learner]
    arguments = setting.values(names)
    if flags.threshold != "fixed":
        arguments["confidence_threshold"] = setting.make(THRESHOLDS[flags.threshold])
    learner = learner_class(
        encoder,
        data.num_classes,
        **arguments,
        weak=WEAK_VIEWS[flags.weak_view](flags),
        resolution=flags.resolution,
        mean=data.mean,
        std=data.std,
        weight_decay=learners_weight_decay,
        ema_decay=flags.ema_decay,
        supervised_loss=_supervised_loss(setting),
        test_logit_adjustment=flags.test_logit_adjustment,
        labeled_counts=setting.trained_on.labeled_counts.tolist(),
        first_step=generation.first_step,
        microbatches=flags.microbatches,
        class_names=data.class_names,
        seed=flags.seed,
    )
    whole = "xla" not in PSEUDO_LABELERS[flags.pseudo_labeler].made_by.refuses
    several = learner.distribute_strategy.num_replicas_in_sync > 1
    whole &= not (several and flags.synchronized_batch_norm)
    images = flags.steps * flags.batch_size * (1 + 2 * flags.unlabeled_ratio)
    jit_compile = {
        "auto": compilation.best(encoder, images, whole),
        "true": True,
        "batch_norm": "batch_norm",
        "false": False,
    }[flags.jit_compile]
    learner.compile(
        optimizer=optimizer,
        jit_compile=jit_compile,
        steps_per_execution=flags.steps_per_execution,
    )
    return learner


def _take_encoder(model_dir: Path, encoder: keras.Model) -> None:
    """Sets an encoder to the averaged one of a training run."""
    try:
        restored = Checkpoints(model_dir / "checkpoints").restore_encoder(encoder)
    except CheckpointError as error:
        raise ValueError(
            f"--from_model_dir={model_dir}: {error}. If they are whole, the run's --encoder or "
            "--resolution is another one."
        ) from error
    if not restored:
        raise ValueError(f"--from_model_dir={model_dir} holds no checkpoint of a training run.")


def _supervised_loss(setting: _Setting) -> SupervisedLoss:
    """Returns what the labeled images cost."""
    if setting.flags.logit_adjustment:
        counts = setting.trained_on.labeled_counts.tolist()
        return LogitAdjustedLoss(counts, setting.flags.logit_adjustment)
    return setting.make(SUPERVISED_LOSSES[setting.flags.supervised_loss])
