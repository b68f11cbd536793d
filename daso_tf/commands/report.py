"""Reports what is in the unlabeled pictures of a training run: `daso-tf report RUN`."""

from __future__ import annotations

from daso_tf.commands import terminal
from daso_tf.commands.of_run import STEP, changed_settings, folder_of_run
from daso_tf.run.finishing import report
from daso_tf.run.lock import one_run
from daso_tf.run.of_folder import settings_of
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
    folder, changed = folder_of_run("report", arguments), changed_settings(settings, _OF_RUN)
    # Files are read when they are needed, so that their number does not matter.
    of_run = settings_of(folder, **changed, stream="true")
    with one_run(of_run):
        page = report(of_run, settings.step)
    print(f"Wrote {page}, and the tables next to it.")
    return 0


COMMAND = terminal.Command(
    "report",
    main,
    flags=(
        STEP,
        *(TRAIN[name] for name in _OF_RUN),
    ),
    usage="RUN",
    details="RUN is the folder of a training run. The files are RUN/report.html,\n"
    "RUN/unlabeled.csv, RUN/labeled.csv, the same as .jsonl, and the lists in RUN/report/.\n"
    "Exit code: 0 written, 2 nothing was started.",
)
