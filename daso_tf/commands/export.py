"""Exports a step of a training run: `daso-tf export RUN --step=2000 --test_logit_adjustment=1`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from daso_tf.commands import terminal
from daso_tf.commands.of_run import STEP, changed_settings, folder_of_run
from daso_tf.run.exported import FORMATS
from daso_tf.run.finishing import export
from daso_tf.run.lock import one_run
from daso_tf.run.of_folder import settings_of
from daso_tf.settings.flag import integer, string
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings

# What may differ from the run. The other flags are those of its flag file.
_OF_RUN = (
    "best",
    "answer",
    "test_logit_adjustment",
    "calibrate",
    "export_dir",
    "data_dir",
    "cache_dir",
    "stream",
    "adopt_data",
)


def main(settings: Settings, arguments: list[str]) -> int:
    """Exports the step.

    Args:
        settings: The flags below.
        arguments: The folder of the run.

    Returns:
        The exit code.
    """
    folder, changed = folder_of_run("export", arguments), changed_settings(settings, _OF_RUN)
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


COMMAND = terminal.Command(
    "export",
    main,
    flags=(
        STEP,
        string(
            "format",
            "saved_model",
            "saved_model, litert, onnx, or several of them, separated by commas. LiteRT and ONNX "
            "are the files EXPORT_DIR.tflite and EXPORT_DIR.onnx; onnx needs the extra `onnx`.",
        ),
        integer(
            "side",
            None,
            "[1, 4096]",
            "Height and width in pixels of the images that LiteRT and ONNX take.",
            shown_default="the resolution of the run",
        ),
        *(TRAIN[name] for name in _OF_RUN),
    ),
    usage="RUN",
    details="RUN is the folder of a training run. Its other settings are those of its flags.cfg.\n"
    "Exit code: 0 exported, 2 nothing was started.",
)
