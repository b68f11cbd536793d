"""Which methods of the command line can be combined, and why others cannot.

The rules are those of the learners and their parts (`daso_tf.step.compatibility`); here they get
the names of flags, and the rules that only concern flags are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from daso_tf.learners import ClassifierRetraining, ReMixMatch
from daso_tf.pseudo_labels import DistributionAlignment
from daso_tf.settings import of_flags
from daso_tf.settings.limits import divisors
from daso_tf.settings.methods import (
    BALANCED_HEADS,
    LEARNERS,
    OF_FROZEN_FEATURES,
    OPEN_SETS,
    PSEUDO_LABELERS,
    THRESHOLDS,
    aligns,
)
from daso_tf.settings.of_flags import BALANCES, Refusal, balances_of
from daso_tf.settings.settings import Settings
from daso_tf.step import closed_forms
from daso_tf.step.compatibility import conflicts

# What each learner is combined with in the tables of DASO's paper: tables 1 to 4, 11 and 14.
PAPER = {
    "supervised": {"linear", "logit_adjustment", "ldam"},
    "pseudo_label": {"linear"},
    "mean_teacher": {"linear", "daso"},
    "mixmatch": {"linear", "daso"},
    "remixmatch": {"linear", "daso", "darp", "crest_plus"},
    "fixmatch": {
        "linear",
        "daso",
        "darp",
        "crest",
        "crest_plus",
        "logit_adjustment",
        "test_logit_adjustment",
        "class_balanced",
        "abc",
    },
    "usadtm": {"linear"},
    "crt": {"linear"},
}


def refusals(
    learner: str,
    pseudo_labeler: str = "linear",
    balances: Sequence[str] = (),
    threshold: str = "fixed",
    distribution_alignment: bool = False,
    open_set: str | None = None,
) -> Iterator[Refusal]:
    """Yields what cannot be combined; nothing where everything can.

    Args:
        learner: A key of `LEARNERS`.
        pseudo_labeler: A key of `PSEUDO_LABELERS`; "linear" is the learner's own.
        balances: Keys of `BALANCES`.
        threshold: A key of `THRESHOLDS`; "fixed" is the learner's own.
        distribution_alignment: Whether ReMixMatch aligns its predictions.
        open_set: A key of `OPEN_SETS`; None without `--open_set`.

    Example:

    >>> [refusal.reason for refusal in refusals("supervised", "daso")]
    ['it learns from the labeled images alone']
    """
    learner_class = LEARNERS[learner].make
    flags = {learner_class: f"--learner={learner}"}
    parts: dict[str, type | None] = {}

    def ask(argument: str, part: Any, flag: str) -> None:
        parts[argument] = part
        flags[part] = flag

    if pseudo_labeler != "linear":
        labeler = PSEUDO_LABELERS[pseudo_labeler].make
        ask("pseudo_labeler", labeler, f"--pseudo_labeler={pseudo_labeler}")
    if threshold != "fixed":
        ask("threshold", THRESHOLDS[threshold].make, f"--threshold={threshold}")
    if distribution_alignment and learner_class is ReMixMatch:
        ask("distribution_alignment", DistributionAlignment, "--distribution_alignment")
    if open_set is not None:
        ask("open_set", OPEN_SETS[open_set].make, "--open_set")
        yield from of_flags.of_generations(pseudo_labeler)
    heads = {name: entry for name in balances if (entry := BALANCED_HEADS.get(name))}
    for name, entry in heads.items():
        ask("balanced_head", entry.make, BALANCES[name])
        for conflict in conflicts(learner_class, parts):
            yield Refusal(flags[conflict.one], flags[conflict.other], conflict.reason)
    if not heads:
        for conflict in conflicts(learner_class, parts):
            yield Refusal(flags[conflict.one], flags[conflict.other], conflict.reason)
    labelers = [part for name, part in parts.items() if name == "pseudo_labeler"]
    losses = [name for name in balances if name not in heads]  # heads are parts themselves
    for refusing, names in ((learner_class, list(balances)), *((one, losses) for one in labelers)):
        if names and "balance" in refusing.refuses:
            yield Refusal(BALANCES[names[0]], flags[refusing], refusing.refuses["balance"])
    yield from of_flags.of_two_balances(balances)


def check(settings: Settings) -> None:
    """Refuses settings that cannot be combined, before anything is loaded.

    Args:
        settings: Those of a training run.

    Raises:
        ValueError: With the two flags and the reason.
    """
    found = list(
        refusals(
            settings.learner,
            settings.pseudo_labeler,
            balances_of(settings),
            settings.threshold,
            aligns(settings) and settings.pseudo_labeler != "cdmad",  # it does so itself
            settings.open_set_score if settings.open_set else None,
        )
    )
    labeler = PSEUDO_LABELERS[settings.pseudo_labeler].make
    if settings.jit_compile == "true" and "xla" in labeler.refuses:
        labeler_flag = f"--pseudo_labeler={settings.pseudo_labeler}"
        found.append(Refusal(labeler_flag, "--jit_compile=true", labeler.refuses["xla"]))
    found += _refusals_of_freezing(settings)
    found += of_flags.of_twins(settings)
    found += of_flags.of_device_data(settings)
    found += of_flags.of_workers(settings)
    retraining = LEARNERS[settings.learner].make is ClassifierRetraining
    if retraining and not settings.from_model_dir:
        raise ValueError(
            f"--learner={settings.learner} retrains the classifier of a finished run: say which, "
            "--from_model_dir=RUN."
        )
    if settings.from_model_dir and not retraining:
        reason = "it trains its own encoder; --encoder_weights sets the initial weights of that"
        found.append(Refusal("--from_model_dir", f"--learner={settings.learner}", reason))
    _check_microbatches(settings.microbatches, settings.batch_size)
    of_flags.refuse(found)


def can_add(balance: str, settings: Settings) -> bool:
    """Whether settings that do not counter the imbalance can be given something that does.

    Args:
        balance: A key of `BALANCES`.
        settings: Those of a training run.
    """
    added = refusals(
        settings.learner,
        settings.pseudo_labeler,
        [*balances_of(settings), balance],
        settings.threshold,
        aligns(settings),
        settings.open_set_score if settings.open_set else None,
    )
    return not any(added)


def can_freeze(settings: Settings) -> bool:
    """Whether the encoder of a training run can be frozen.

    Args:
        settings: Those of the run.
    """
    return not any(_refusals_of_freezing(settings.replace(freeze_encoder=True)))


def _refusals_of_freezing(settings: Settings) -> Iterator[Refusal]:
    """Yields what does not go with a frozen encoder, or with one that is trained."""
    if not settings.freeze_encoder:
        if settings.pseudo_labeler in OF_FROZEN_FEATURES:
            reason = "it needs features that training does not change; give --freeze_encoder"
            labeler = f"--pseudo_labeler={settings.pseudo_labeler}"
            yield Refusal(labeler, "an encoder that is trained", reason)
        if settings.answer in closed_forms.LINEAR:
            reason = "it needs features that training does not change; give --freeze_encoder"
            yield Refusal(f"--answer={settings.answer}", "an encoder that is trained", reason)
        elif settings.answer != "run" and not settings.compare_labels_only:
            reason = "the run has no twin; give --compare_labels_only or --freeze_encoder"
            yield Refusal(f"--answer={settings.answer}", "an encoder that is trained", reason)
        if settings.finetune_steps:
            reason = "it is trained as a whole already; give --freeze_encoder"
            steps = f"--finetune_steps={settings.finetune_steps}"
            yield Refusal(steps, "an encoder that is trained", reason)
        if settings.classifier_weights != "random":
            reason = "a probe needs features that are good before training; give --freeze_encoder"
            weights = f"--classifier_weights={settings.classifier_weights}"
            yield Refusal(weights, "an encoder that is trained", reason)
        return
    refuses = LEARNERS[settings.learner].make.refuses
    if "frozen_encoder" in refuses:
        learner = f"--learner={settings.learner}"
        yield Refusal("--freeze_encoder", learner, refuses["frozen_encoder"])
    if settings.strategy != "none":
        reason = "a feature bank and what learns from it fit on one device"
        yield Refusal("--freeze_encoder", f"--strategy={settings.strategy}", reason)
    if settings.mixed_precision not in ("none", "auto"):
        reason = "the features and what learns from them are float32"
        yield Refusal("--freeze_encoder", f"--mixed_precision={settings.mixed_precision}", reason)


def _check_microbatches(microbatches: int, batch_size: int) -> None:
    if batch_size % microbatches:
        allowed = map(str, divisors(batch_size))
        raise ValueError(
            f"--microbatches={microbatches} must divide --batch_size={batch_size}; allowed values:"
            f" {', '.join(allowed)}."
        )
