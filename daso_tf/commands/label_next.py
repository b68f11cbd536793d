"""Says which pictures to label next: `daso-tf label-next RUN --count=50 --output=next.csv`."""

from __future__ import annotations

from pathlib import Path

from daso_tf.commands import terminal
from daso_tf.commands.of_run import changed_settings, folder_of_run
from daso_tf.run.finishing import label_next
from daso_tf.run.of_folder import settings_of
from daso_tf.settings.flag import integer, location
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings

_OF_RUN = ("best", "cache_dir", "data_dir", "evaluation_batch_size")  # what may differ from the run


def main(settings: Settings, arguments: list[str]) -> int:
    """Writes the list.

    Args:
        settings: The flags below.
        arguments: The folder of the run.

    Returns:
        The exit code.
    """
    folder, changed = folder_of_run("label-next", arguments), changed_settings(settings, _OF_RUN)
    path = Path(settings.output or folder / "next.csv")
    label_next(settings_of(folder, **changed, stream="true"), settings.count, path)
    print(f"Wrote {path}. Fill in the labels of its first {settings.count} rows.")
    return 0


COMMAND = terminal.Command(
    "label-next",
    main,
    flags=(
        integer("count", 50, "[1, inf)", "Pictures to label."),
        location("output", None, "CSV file to write.", shown_default="RUN/next.csv"),
        *(TRAIN[name] for name in _OF_RUN),
    ),
    usage="RUN",
    details="RUN is the folder of a training run on image_folder or image_list. The file lists\n"
    "all pictures, those to label first. `daso-tf train --dataset=image_list --labels=FILE`\n"
    "reads it.\n"
    "Exit code: 0 written, 2 nothing was started.",
)
