"""Settings that fit the data and the machine, for pictures of which nobody has published any.

The defaults of the flags are those of DASO's paper: 250,000 steps on a GPU. `choose` replaces them
for folders and lists of pictures, where no flag says otherwise. It depends on a small record and on
the flags that were given, so the same pictures on the same kind of machine get the same settings.

To choose another setting, add a function to `_CHOICES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from daso_tf import encoders
from daso_tf.data.loading import Selection, common_size
from daso_tf.data.pools import Size
from daso_tf.platform import cores
from daso_tf.platform.extras import MissingExtraError
from daso_tf.settings import combinations, methods
from daso_tf.settings.flags import complete
from daso_tf.settings.settings import Settings

# The data sets whose settings are chosen. All others have published ones.
DATASETS = ("image_folder", "image_list")

MINUTES = 10  # of training
PRETRAINED = "efficientnet_lite0"  # its weights are in a package: nothing is downloaded
_EVALUATIONS = 20  # DASO's paper reports the median of the last 20
_FEWEST_STEPS = 2000  # of a run, before its pictures become larger
_MOST_STEPS = 250_000  # those of DASO's paper
_RESOLUTIONS = (128, 96, 64, 48, 32, 24, 16)
_MOST_CORES = 8  # a step of small pictures does not keep more of them busy
_CORES_PER_GPU = 100  # an assumption: no GPU has been measured

# Seconds of a training step on an Intel Xeon with AVX-512: those of any step, and core-seconds for
# each picture that passes the network, forward and backward: a part for its views and a part for
# each million of operations (multiplications and additions, forward). benchmarks/RESULTS.md has the
# measurements.
_SECONDS_PER_STEP = 6e-3
_SECONDS = 0.5e-3
_SECONDS_PER_MILLION = 0.032e-3
# Millions of operations for 224 x 224 pixels; networks that are not here count as ResNet-50.
_MILLIONS_AT_224 = {"resnet_18": 3600, "resnet_34": 7300, "resnet_50": 8200, "resnet_101": 15_600}


class Situation(NamedTuple):
    """What settings are chosen for.

    Attributes:
        labeled: Labeled pictures of each class.
        unlabeled: Number of unlabeled pictures.
        sizes: Sizes (height, width) in pixels that occur among all pictures.
        cores: Processor cores.
        gpus: GPUs.
        pretrained: Whether the weights of `PRETRAINED` are installed.
        validation: Number of validation pictures.
    """

    labeled: tuple[int, ...]
    unlabeled: int
    sizes: frozenset[Size]
    cores: int
    gpus: int = 0
    pretrained: bool = False
    validation: int = 0

    @property
    def side(self) -> int:
        """The median of the shorter sides."""
        return int(np.median(sorted(map(min, self.sizes)))) if self.sizes else 32

    @property
    def imbalance(self) -> float:
        """Labeled pictures of the largest class for each one of the smallest."""
        return max(self.labeled) / max(min(self.labeled), 1)

    @property
    def machine(self) -> str:
        """The machine in words."""
        number, word = (self.gpus, "GPU") if self.gpus else (self.cores, "core")
        return f"{number} {word}{'s' * (number > 1)}"


class Choice(NamedTuple):
    """An automatic setting.

    Attributes:
        value: The value of the flag.
        reason: Why it is that one, as a part of a sentence.
    """

    value: Any
    reason: str


def fitted(settings: Settings, selection: Selection) -> tuple[Settings, list[str]]:
    """Returns the settings with those that fit the data and this machine, for a run that starts.

    Args:
        settings: Those of a training run, completed.
        selection: Its images.

    Returns:
        The settings, and the lines that say what was chosen and why; none where the settings of the
        data set are published.
    """
    if settings.dataset not in DATASETS:
        return settings, []
    situation = situation_of(selection)
    chosen = choose(situation, settings)
    values = {name: choice.value for name, choice in chosen.items()}
    return with_values(settings, values), lines(chosen, situation)


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Returns settings with automatic values; a frozen encoder brings its own defaults.

    Args:
        settings: Those of a training run, completed.
        values: Values of flags that were not given.
    """
    decisive = ("encoder", "freeze_encoder", "batch_size")  # its defaults depend on them
    known = {name: values[name] for name in decisive if name in values}
    if known and (settings.freeze_encoder or values.get("freeze_encoder")):
        settings = complete(settings.replace(**known))
    return settings.replace(**values)


def situation_of(selection: Selection) -> Situation:
    """Returns the record of the images that were selected and of this machine."""
    pool, members = selection.parts["labeled"]
    counts = np.bincount(pool.labels[members], minlength=len(selection.source.class_names))
    return Situation(
        tuple(counts.tolist()),
        len(selection.parts["unlabeled"][1]),
        frozenset().union(*selection.sizes.values()),
        cores.cores(),
        cores.gpus(),
        _has_pretrained(),
        len(selection.parts["validation"][1]) if "validation" in selection.parts else 0,
    )


def with_network(settings: Settings) -> Settings:
    """Returns the settings with the network that `fitted` will choose on this machine.

    So what needs a frozen encoder is not refused, before data is read, where it will have one.

    Args:
        settings: Those of a training run, completed.
    """
    if settings.dataset not in DATASETS:
        return settings
    machine = Situation((), 0, frozenset(), cores.cores(), cores.gpus(), _has_pretrained())
    chosen = choose(machine, settings, ("encoder", "freeze_encoder"))
    return with_values(settings, {name: choice.value for name, choice in chosen.items()})


def _has_pretrained() -> bool:
    try:
        encoders.check(PRETRAINED)
    except MissingExtraError:
        return False
    return True


def choose(
    situation: Situation, settings: Settings, names: Iterable[str] | None = None
) -> dict[str, Choice]:
    """Chooses settings that were not given.

    Args:
        situation: The data and the machine.
        settings: Those of a training run, completed.
        names: Which ones, in the order of `NAMES`; by default all.

    Returns:
        The chosen settings by the name of their flag. A flag that was given is not among them, nor
        one that the learner determines or that the chosen methods do not use.

    Example:

    >>> from daso_tf.settings.flags import TRAIN, complete
    >>> settings = Settings({name: flag.default for name, flag in TRAIN.items()})
    >>> pictures = Situation((40, 22, 12, 7, 4), 800, frozenset([(32, 32)]), cores=2)
    >>> choose(pictures, complete(settings))["batch_size"]
    Choice(value=16, reason='about a fifth of the 85 labeled pictures; from 8 to 64, if so many')
    """
    chosen = {}
    for name in NAMES if names is None else names:
        if name in settings.given or not _is_free(name, settings):
            continue
        choice = _CHOICES[name](situation, settings)
        if choice is not None:
            chosen[name] = choice
            settings = with_values(settings, {name: choice.value})
    return chosen


def lines(chosen: Mapping[str, Choice], situation: Situation) -> list[str]:
    """Returns the lines that tell a user what was chosen and why; none where nothing was."""
    if not chosen:
        return []
    flags = {name: f"--{name}={choice.value}" for name, choice in chosen.items()}
    width = max(map(len, flags.values()))
    return [
        f"Chosen for these pictures and this machine ({situation.machine}); a flag that you give "
        "takes precedence:",
        *(f"  {flags[name]:<{width}}  {choice.reason}" for name, choice in chosen.items()),
    ]


def _is_free(name: str, settings: Settings) -> bool:
    """Whether neither the learner determines a flag, nor its methods ignore it."""
    # A pretraining of published length would be most of a short run.
    if name in methods.defaults(settings) and name != "pretrain_steps":
        return False
    return name not in methods.FLAGS or name in methods.flags_in_use(settings)


# ---- What a run costs


def _millions(encoder: str, resolution: int) -> float:
    """Returns the millions of operations of an encoder for one picture, forward, about."""
    if wide := re.fullmatch(r"wrn_(\d+)_(\d+)", encoder):
        depth, width = map(int, wide.groups())
        # Every stage has twice the channels of the stage before, and a quarter of its pixels.
        return (depth - 4) * 2 * 9 * (16 * width * resolution) ** 2 / 1e6
    at_224 = _MILLIONS_AT_224.get(encoder, _MILLIONS_AT_224["resnet_50"])
    return at_224 * (resolution / 224) ** 2


def _seconds_per_picture(situation: Situation, settings: Settings, resolution: int) -> float:
    """Returns the seconds of a training step for each picture that passes the network."""
    height, width = common_size(situation.sizes, settings.source_size, resolution)
    views = _SECONDS * height * width / 32**2
    network = _SECONDS_PER_MILLION * _millions(settings.encoder, resolution)
    power = situation.gpus * _CORES_PER_GPU or min(situation.cores, _MOST_CORES)
    return (views + network) / power


def _pictures_per_step(settings: Settings) -> int:
    """Returns how many views pass the network in a step: two of each unlabeled picture."""
    if not methods.uses_unlabeled_images(settings):
        return settings.batch_size
    return settings.batch_size * (1 + 2 * settings.unlabeled_ratio)


def _affordable_steps(situation: Situation, settings: Settings, resolution: int) -> int:
    """Returns how many steps `MINUTES` allow."""
    pictures = _seconds_per_picture(situation, settings, resolution) * _pictures_per_step(settings)
    return int(60 * MINUTES / (_SECONDS_PER_STEP + pictures))


# ---- The choices, in an order in which each may depend on those before it


def _encoder(situation: Situation, settings: Settings) -> Choice | None:
    """Chooses the network: the one place where this is decided."""
    if settings.encoder_weights or settings.from_model_dir:
        return None  # these belong to an encoder
    asked = "freeze_encoder" in settings.given
    if settings.freeze_encoder or (
        situation.pretrained and not asked and combinations.can_freeze(settings)
    ):
        return Choice(PRETRAINED, "pretrained on ImageNet; its weights are installed")
    if situation.gpus:
        return Choice("wrn_28_2", "the network of DASO's paper")
    return Choice("wrn_10_2", "a small network, trained from scratch on a processor")


def _freeze_encoder(situation: Situation, settings: Settings) -> Choice | None:
    if settings.encoder != PRETRAINED or "encoder" in settings.given:
        return None
    return Choice(True, "its features are computed once, and a small network learns from them")


def _resolution(situation: Situation, settings: Settings) -> Choice | None:
    if settings.from_model_dir or settings.freeze_encoder:
        return None  # it belongs to the encoder
    fitting = [side for side in _RESOLUTIONS if side <= situation.side]
    for side in fitting:
        if _affordable_steps(situation, settings, side) >= _FEWEST_STEPS:
            return Choice(
                side,
                f"the largest, up to {situation.side}, of which {MINUTES} minutes have "
                f"{_FEWEST_STEPS:,} steps",
            )
    reason = (
        f"the smallest; of larger ones, {MINUTES} minutes have fewer than {_FEWEST_STEPS:,} steps"
    )
    return Choice(min(_RESOLUTIONS), reason)


def _batch_size(situation: Situation, settings: Settings) -> Choice:
    labeled = available = sum(situation.labeled)
    if methods.uses_unlabeled_images(settings):
        available = max(min(labeled, situation.unlabeled), 1)
    if settings.freeze_encoder:  # a step costs next to nothing, and small batches need small rates
        size = min(2 ** (available.bit_length() - 1), 64)
        return Choice(size, f"on cached features; at most 64, and the {labeled} labeled pictures")
    size = min(_power_of_2(labeled / 5, 8, 64), 2 ** (available.bit_length() - 1))
    return Choice(
        size, f"about a fifth of the {labeled} labeled pictures; from 8 to 64, if so many"
    )


def _unlabeled_ratio(situation: Situation, settings: Settings) -> Choice | None:
    if not methods.uses_unlabeled_images(settings):
        return None
    labeled, unlabeled = sum(situation.labeled), situation.unlabeled
    ratio = max(min(unlabeled // labeled, unlabeled // settings.batch_size, 7), 1)
    return Choice(ratio, f"{unlabeled} unlabeled and {labeled} labeled pictures; at most 7")


def _steps(situation: Situation, settings: Settings) -> Choice:
    steps = _affordable_steps(situation, settings, settings.resolution)
    steps = min(max(steps, 10 * _EVALUATIONS), _MOST_STEPS)
    each = _EVALUATIONS * settings.steps_per_execution
    return Choice(max(steps // each, 1) * each, f"about {MINUTES} minutes on {situation.machine}")


def _evaluate_every(situation: Situation, settings: Settings) -> Choice:
    each = settings.steps_per_execution
    every = max(settings.steps // _EVALUATIONS // each, 1) * each
    return Choice(every, f"{-(-settings.steps // every)} evaluations")


def _ema_decay(situation: Situation, settings: Settings) -> Choice:
    decay = round(min(max(1 - 20 / settings.steps, 0.9), 0.999), 4)
    return Choice(decay, "averages over a twentieth of the steps; at most 0.999")


def _cutout_size(situation: Situation, settings: Settings) -> Choice:
    size = common_size(situation.sizes, settings.source_size, settings.resolution)
    at_resolution = settings.learner == "remixmatch" or settings.weak_view == "random_resized_crop"
    side = settings.resolution if at_resolution else min(size)
    return Choice(side // 2, f"half of the {side} pixels of a view")


def _answer(situation: Situation, settings: Settings) -> Choice | None:
    has_twin = settings.freeze_encoder and methods.uses_unlabeled_images(settings)
    if not has_twin or settings.open_set:
        return None  # a twin does not tell pictures of no class
    if not situation.validation:
        return None  # without validation pictures it would take several trainings to choose
    return Choice(
        "auto",
        f"with or without unlabeled pictures, as the {situation.validation} validation pictures "
        "say",
    )


def _share_of_steps(
    share: float, reason: str, most: int | None = None, least: int = 1
) -> Callable[[Situation, Settings], Choice]:
    def choice_of(situation: Situation, settings: Settings) -> Choice:
        steps = max(round(share * settings.steps), least)
        return Choice(steps if most is None else min(steps, most), reason)

    return choice_of


def _test_logit_adjustment(situation: Situation, settings: Settings) -> Choice | None:
    if situation.imbalance < 2 or not combinations.can_add("test_logit_adjustment", settings):
        return None
    largest, smallest = max(situation.labeled), min(situation.labeled)
    return Choice(1.0, f"rare classes are not forgotten: {smallest} to {largest} labeled pictures")


_CHOICES: dict[str, Callable[[Situation, Settings], Choice | None]] = {
    "encoder": _encoder,
    "freeze_encoder": _freeze_encoder,
    "batch_size": _batch_size,
    "unlabeled_ratio": _unlabeled_ratio,
    "resolution": _resolution,
    "steps": _steps,
    "evaluate_every": _evaluate_every,
    "ema_decay": _ema_decay,
    "cutout_size": _cutout_size,
    "test_logit_adjustment": _test_logit_adjustment,
    "answer": _answer,
    "pretrain_steps": _share_of_steps(0.1, "a tenth of the steps"),
    "distribution_period": _share_of_steps(0.01, "a hundredth of the steps; at most 100", 100, 10),
    "epoch_steps": _share_of_steps(0.02, "a fiftieth of the steps; at most 500", 500, 10),
    "generation_steps": _share_of_steps(0.2, "a fifth of the steps"),
    "cossl_warmup_steps": _share_of_steps(0.1, "a tenth of the steps; at most 5,000", 5000),
    "ldam_reweight_after": _share_of_steps(0.8, "four fifths of the steps"),
}
NAMES = tuple(_CHOICES)


def _power_of_2(number: float, least: int, most: int) -> int:
    """Returns the nearest power of 2 between two powers of 2."""
    return int(min(max(2 ** round(np.log2(max(number, 1))), least), most))
