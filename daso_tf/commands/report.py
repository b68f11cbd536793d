"""Reports what is in the unlabeled pictures of a training run: `daso-tf report RUN`."""

from __future__ import annotations

from pathlib import Path

from daso_tf.commands import terminal
from daso_tf.run.finishing import report
from daso_tf.run.lock import one_run
from daso_tf.run.of_folder import settings_of
from daso_tf.settings.flag import integer
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings

# What may differ from the run. The other flags are those of its flag file.
_OF_RUN = ("best", "cache_dir", "data_dir", "evaluation_batch_size")


def main(settings: Settings, arguments: list[str]) -> int:
    """Writes the report.

    Args:
        settings: The flags below.
        arguments: The folder of the run.

    Returns:
        The exit code.
    """
    if len(arguments) != 1:
        return terminal.fail("needs one argument, the folder of a training run: daso-tf report RUN")
    if settings.step is not None and settings.best:
        return terminal.fail("--step and --best both say which step; give one of them")
    changed = {name: settings[name] for name in _OF_RUN if name in settings.given}
    if settings.step is not None:
        changed["best"] = False
    # Files are read when they are needed, so that their number does not matter.
    of_run = settings_of(Path(arguments[0]), **changed, stream="true")
    with one_run(of_run):
        page = report(of_run, settings.step)
    print(f"Wrote {page}, and the tables next to it.")
    return 0


COMMAND = terminal.Command(
    "report",
    main,
    flags=(
        integer(
            "step",
            None,
            "[1, inf)",
            "A step that has a checkpoint.",
            shown_default="the newest one; the best one if the run has --best",
        ),
        *(TRAIN[name] for name in _OF_RUN),
    ),
    usage="RUN",
    details="RUN is the folder of a training run. The files are RUN/report.html,\n"
    "RUN/unlabeled.csv, RUN/labeled.csv, the same as .jsonl, and the lists in RUN/report/.\n"
    "Exit code: 0 written, 2 nothing was started.",
)
