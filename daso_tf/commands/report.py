"""Reports what is in the unlabeled pictures of a training run: `daso-tf report RUN`.

`daso-tf report --compare RUN RUN ...` shows several runs side by side.
"""

from __future__ import annotations

from pathlib import Path

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS, OF_INSPECTION
from daso_tf.commands.of_run import changed_settings, folder_of_run
from daso_tf.run.finishing import report
from daso_tf.run.inspection.side_by_side import as_text_table, scored, write_comparison
from daso_tf.run.lock import one_run
from daso_tf.run.of_folder import settings_of
from daso_tf.settings.flag import expanded
from daso_tf.settings.settings import Settings


def main(settings: Settings, arguments: list[str]) -> int:
    """Writes the report.

    Args:
        settings: The flags below.
        arguments: The folder of the run, or with `--compare` those of several.

    Returns:
        The exit code.
    """
    if settings.compare:
        return _compare(settings, arguments)
    if settings.output is not None:
        return terminal.fail("--output is for --compare; a report is in the folder of its run")
    folder, changed = folder_of_run("report", arguments), changed_settings(settings, OF_INSPECTION)
    # Files are read when they are needed, so that their number does not matter.
    of_run = settings_of(folder, **changed, stream="true")
    with one_run(of_run):
        page = report(of_run, settings.step)
    print(f"Wrote {page}, and the tables next to it.")
    return 0


def _compare(settings: Settings, arguments: list[str]) -> int:
    """Writes several runs side by side, and prints their scores."""
    if given := [name for name in ("step", *OF_INSPECTION) if name in settings.given]:
        return terminal.fail(f"--{given[0]} does not go with --compare, which reads only results")
    output = Path(settings.output or "comparison.html")
    if output.is_dir():
        return terminal.fail(f"--output={output} is a folder; give the name of a file")
    runs = scored([Path(expanded(argument)) for argument in arguments])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_comparison(output, runs)
    print(as_text_table(runs), end="\n\n")
    print(f"Wrote {output}.")
    return 0


COMMAND = COMMANDS["report"]
