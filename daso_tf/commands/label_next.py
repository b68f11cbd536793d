"""Says which pictures to label next: `daso-tf label-next RUN --count=50 --output=next.csv`."""

from __future__ import annotations

from pathlib import Path

from daso_tf.commands.command_lines import COMMANDS, OF_INSPECTION
from daso_tf.commands.of_run import changed_settings, folder_of_run
from daso_tf.run.finishing import label_next
from daso_tf.run.of_folder import settings_of
from daso_tf.settings.settings import Settings


def main(settings: Settings, arguments: list[str]) -> int:
    """Writes the list.

    Args:
        settings: The flags below.
        arguments: The folder of the run.

    Returns:
        The exit code.
    """
    folder = folder_of_run("label-next", arguments)
    changed = changed_settings(settings, OF_INSPECTION)
    path = Path(settings.output or folder / "next.csv")
    label_next(settings_of(folder, **changed, stream="true"), settings.count, path)
    print(f"Wrote {path}. Fill in the labels of its first {settings.count} rows.")
    return 0


COMMAND = COMMANDS["label-next"]
