"""What the commands share that work on a training run, `daso-tf NAME RUN`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from daso_tf.settings.flag import integer
from daso_tf.settings.settings import Settings

STEP = integer(
    "step",
    None,
    "[1, inf)",
    "A step that has a checkpoint.",
    shown_default="the newest one; the best one if the run has --best",
)


def folder_of_run(command: str, arguments: Sequence[str]) -> Path:
    """Returns the folder that is the only argument of a command.

    Args:
        command: The name of the command.
        arguments: Its arguments that are not flags.

    Raises:
        ValueError: If there is none, or several.
    """
    if len(arguments) != 1:
        raise ValueError(f"needs one argument, the folder of a training run: daso-tf {command} RUN")
    return Path(arguments[0])


def changed_settings(settings: Settings, names: Collection[str]) -> dict[str, Any]:
    """Returns what was given of the settings that may differ from those of the run.

    Args:
        settings: The flags of the command.
        names: Those that may differ. `--step` says which step, so `--best` is then off.

    Raises:
        ValueError: If both were given.
    """
    step = getattr(settings, "step", None)
    if step is not None and settings.best:
        raise ValueError("--step and --best both say which step; give one of them")
    changed = {name: settings[name] for name in names if name in settings.given}
    return changed if step is None else {**changed, "best": False}
