"""Exports a step of a training run: `daso-tf export RUN --step=2000 --test_logit_adjustment=1`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS, OF_EXPORT
from daso_tf.commands.of_run import changed_settings, folder_of_run
from daso_tf.run.exported import FORMATS
from daso_tf.run.finishing import export
from daso_tf.run.lock import one_run
from daso_tf.run.of_folder import settings_of
from daso_tf.settings.settings import Settings


def main(settings: Settings, arguments: list[str]) -> int:
    """Exports the step.

    Args:
        settings: The flags below.
        arguments: The folder of the run.

    Returns:
        The exit code.
    """
    folder, changed = folder_of_run("export", arguments), changed_settings(settings, OF_EXPORT)
    formats = settings.format.split(",")
    if wrong := [name for name in formats if name not in FORMATS]:
        return terminal.fail(
            f"--format={settings.format}: {wrong[0]!r} is no format; allowed are "
            f"{', '.join(FORMATS)}, or several of them, separated by commas"
        )
    if settings.side and formats == ["saved_model"]:
        return terminal.fail(
            f"--side={settings.side}, but a SavedModel takes images of any size; leave it out"
        )
    changed.pop("export_dir", None)
    of_run = settings_of(folder, **changed)
    export_dir = settings.export_dir or of_run.export_dir
    own = Path(export_dir).resolve() == Path(of_run.export_dir).resolve()
    # Another export changes nothing of the run, which may go on meanwhile.
    with one_run(of_run) if own else contextlib.nullcontext():
        export(
            of_run.replace(export_dir=export_dir),
            settings.step,
            record=own,
            formats=formats,
            side=settings.side,
        )
    return 0


COMMAND = COMMANDS["export"]
