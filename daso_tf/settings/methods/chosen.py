"""On which flags the chosen methods depend, and which defaults they set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daso_tf.data.unlabeled_distribution import ESTIMATE
from daso_tf.settings.flag import Flag
from daso_tf.settings.methods.classifiers import CLASSIFIERS
from daso_tf.settings.methods.common import (
    BATCH_SIZE,
    UNLABELED_DISTRIBUTION,
    UNLABELED_RATIO,
)
from daso_tf.settings.methods.entry import Entry
from daso_tf.settings.methods.imbalance import (
    BALANCED_HEAD,
    BALANCED_HEADS,
    SUPERVISED_LOSS,
    SUPERVISED_LOSSES,
)
from daso_tf.settings.methods.learners import LEARNERS
from daso_tf.settings.methods.open_sets import OPEN_SETS
from daso_tf.settings.methods.pseudo_labelers import (
    AUTO,
    DISTRIBUTION_TEMPERATURE,
    PSEUDO_LABELER,
    PSEUDO_LABELERS,
    SELF_TRAINING,
    SELF_TRAINING_FLAGS,
    aligns,
)
from daso_tf.settings.methods.thresholds import THRESHOLD, THRESHOLDS
from daso_tf.settings.settings import Settings

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
    labels = PSEUDO_LABELERS[settings.pseudo_labeler]
    of_methods = {**entry.defaults, **labels.defaults}
    if settings.freeze_encoder:
        frozen = {**of_methods, **FROZEN_DEFAULTS}
        frozen |= {**labels.frozen_defaults, **entry.frozen_defaults, **chosen}
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


def name_of(settings: Settings) -> str:
    """Returns the name of the chosen method: its learner and the parts that are not the default.

    Args:
        settings: Those of a training run, completed.

    Returns:
        A name such as "fixmatch + daso + abc"; the pseudo-labeler is always part of it, if there is
        a choice.
    """
    arguments = LEARNERS[settings.learner].arguments
    names = [settings.learner]
    if PSEUDO_LABELER.name in arguments:
        names.append(settings.pseudo_labeler)
    names += [
        settings[flag.name]
        for flag in (THRESHOLD, BALANCED_HEAD)
        if flag.name in arguments and settings[flag.name] != flag.default
    ]
    if settings.supervised_loss != SUPERVISED_LOSS.default:
        names.append(settings.supervised_loss)
    return " + ".join(names)


def uses_unlabeled_images(settings: Settings) -> bool:
    """Whether the learner that settings ask for learns from unlabeled images."""
    return "unlabeled_weight" in LEARNERS[settings.learner].arguments
