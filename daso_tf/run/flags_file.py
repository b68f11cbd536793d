"""The flag file of a run, and whether the run may continue with the present flags and rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from daso_tf.data.sources.benchmarks import BENCHMARKS
from daso_tf.platform.disk import open_file
from daso_tf.platform.files import write_atomically
from daso_tf.settings import automatic
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.methods import SELF_TRAINING
from daso_tf.settings.settings import Settings

# How the methods compute, apart from what flags say. Version 0.1 had no number; it counts as 1.
RULES = 3
_FLAG_LINE = re.compile(r"--(\w+)=(.*)")
_NOTE_LINE = re.compile(r"^# (--(mixed_precision)=.*)", re.MULTILINE)
_RULES_LINE = re.compile(r"^# Rules (\d{1,9})\b", re.MULTILINE)


def continued(path: Path, settings: Settings) -> Settings:
    """Returns the settings with the automatic ones that a run started with, unless given.

    They depend on the data, the machine and `--steps`, all of which may have changed.

    Args:
        path: The flag file of the run; it need not exist.
        settings: The present settings, completed.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    chosen = settings.dataset in automatic.DATASETS
    names = automatic.NAMES if chosen else ("pretrain_steps",)
    settings = _with_values_of(path, names, settings)
    if settings.mixed_precision == "auto" and path.exists():
        there, _ = _read(path)
        if "mixed_precision" in there:
            value = _value(path, "mixed_precision", there)
            return settings.replace(mixed_precision=value)
    return settings


def with_network_of(model_dir: Path, settings: Settings) -> Settings:
    """Returns the settings with encoder and resolution of another run, if these are automatic.

    Args:
        model_dir: The folder of that run.
        settings: The present settings, completed.

    Raises:
        ValueError: If the flag file of that run is damaged.
        OSError: If it cannot be read.
    """
    if settings.dataset not in automatic.DATASETS:
        return settings
    return _with_values_of(model_dir / "flags.cfg", ("encoder", "resolution"), settings)


def _with_values_of(path: Path, names: Iterable[str], settings: Settings) -> Settings:
    if not path.exists():
        return settings
    there, _ = _read(path)
    values = {name: _value(path, name, there) for name in names if name in there}
    missing = {name: value for name, value in values.items() if name not in settings.given}
    return automatic.with_values(settings, missing)


def _value(path: Path, name: str, there: Mapping[str, str]) -> Any:
    """Returns the value of a flag in a file."""
    try:
        return TRAIN[name].parse(there[name])
    except ValueError as error:
        raise _damaged(path, f"--{name}={there[name][:40]}: {error}") from error


class Changes(NamedTuple):
    """What differs between the start of a run and now.

    Attributes:
        settings: Flags that were given with another value, such as `--seed: 0 there, 1 now`.
        defaults: Flags whose default has changed.
        rules: What the library computes differently for this run.
    """

    settings: list[str]
    defaults: list[str]
    rules: list[str]


def notes_of(path: Path, settings: Settings) -> list[str]:
    """Returns the notes of a flag file on values that are still those of the run.

    Args:
        path: A file that `write_flags_file` wrote; it need not exist.
        settings: The present settings, completed.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    if not path.exists():
        return []
    there, _ = _read(path)
    notes = _NOTE_LINE.findall(path.read_text(encoding="utf-8-sig"))
    return [note for note, name in notes if there.get(name) == as_text(settings[name])]


def write_flags_file(path: Path, settings: Settings, notes: Iterable[str] = ()) -> None:
    """Writes every flag of a run that has a value, sorted by name, for `--flagfile`.

    Args:
        path: The file, in a folder that exists.
        settings: The settings of the run.
        notes: How values were chosen, each as a line that begins with the flag.
    """
    kept = (name for name in sorted(TRAIN) if TRAIN[name].kept)
    texts = {name: as_text(settings[name]) for name in kept if settings[name] is not None}
    text = f"# Rules {RULES}\n" + "".join(f"# {note}\n" for note in notes)
    text += "".join(f"--{name}={value}\n" for name, value in texts.items())
    write_atomically(path, lambda file: file.write(text.encode()))


def changes_since(path: Path, settings: Settings) -> Changes:
    """Returns what has changed since a flag file was written, of what changes the result of a run.

    A flag that the file does not have was added to the library later; its default keeps what the
    library did before.

    Args:
        path: A file that `write_flags_file` wrote.
        settings: The present settings, completed.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    there, rules = _read(path)
    values = {name: flag.default for name, flag in TRAIN.items()}
    if rules < 2 and settings.threshold == "softmatch":
        there.setdefault("softmatch_alignment", "false")  # version 0.1 had no alignment
    for name in there.keys() & TRAIN.keys():
        values[name] = _value(path, name, there)
    then = complete(Settings(values, there))
    changes = Changes([], [], [])
    for name in sorted(there.keys() | TRAIN.keys()):
        sets_limit = name == "evaluate_every" and settings.open_set  # at every evaluation
        if name in TRAIN and TRAIN[name].free and not sets_limit:
            continue
        before = as_text(then[name]) if name in TRAIN else there[name]
        now = as_text(settings[name]) if name in TRAIN else "unset"
        if before != now:
            kind = changes.settings if name in settings.given else changes.defaults
            kind.append(f"--{name}: {before} there, {now} now")
    if rules < 2:
        changes.rules.extend(_changed_in_rules_2(settings))
    if rules < 3 and _has_files(settings):
        changes.rules.append("JPEG files of at least four times the size are decoded reduced")
    return changes


def _read(path: Path) -> tuple[dict[str, str], int]:
    """Returns the flags of a file as texts by name, and the number of the rules."""
    with open_file(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _damaged(path, str(error)) from error
    there = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _FLAG_LINE.fullmatch(line):
            there[match[1]] = match[2]
        elif line.strip() and not line.startswith(("#", "//")):
            raise _damaged(path, f"line {number} is {line[:40]!r}, not --name=value")
    if not there.get("dataset"):
        raise _damaged(path, "it has no --dataset")
    found = _RULES_LINE.search(text)
    return there, int(found[1]) if found else 1


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is damaged ({what}). Restore it, or remove it to continue the run with the flags "
        "of this command, which are then not compared"
    )


def _has_files(settings: Settings) -> bool:
    """Whether the images of a run are files of any size."""
    return settings.dataset not in ("digits", *BENCHMARKS)


def _changed_in_rules_2(settings: Settings) -> Iterator[str]:
    """Yields what version 0.1 computed differently for a run, beyond rounding."""
    if settings.warmup_steps:
        yield "the warm-up starts at learning rate 0"
    if settings.learning_rate_drops and settings.optimizer in ("sgd", "sgdw"):
        yield "SGD keeps the learning rate outside the velocity"
    if settings.learner == "remixmatch":
        if settings.pseudo_labeler != "daso":
            yield "ReMixMatch maps weak and strong views in separate batches"
        if settings.pseudo_labeler in ("crest_plus", "distribution_alignment"):
            yield "predictions are aligned before they are sharpened"
        if settings.source_size not in (0, settings.resolution):
            yield "ReMixMatch makes strong views at --resolution"
    if settings.pseudo_labeler in SELF_TRAINING and settings.ramp_fraction:
        yield "the weight of the unlabeled loss grows in every generation"
    if settings.encoder.startswith("applications:"):
        yield "BatchNorm of keras.applications updates its statistics with momentum 0.9"
    if settings.learner == "usadtm":
        yield "USADTM keeps 5 times the labeled images of each class in its queues"
    if settings.labeled_head and _has_files(settings) and settings.class_order is None:
        yield "the tail follows the sizes of the classes, not their names"
    changed = {
        "flexmatch": "FlexMatch writes only confident images of a batch into its memory",
        "adsh": "ADSH sets its thresholds once per epoch, with the authors' cap and labels",
        "saw": "SAW sets its weights once per epoch and weights the labeled loss, too",
        "cossl": "CoSSL learns from averaged features and class-balanced draws",
    }
    for name in (settings.threshold, settings.balanced_head):
        if name in changed:
            yield changed[name]
