"""Reports what is in the unlabeled pictures of a training run: `daso-tf report RUN`.

`daso-tf report --compare RUN RUN ...` shows several runs side by side.
"""

from __future__ import annotations

from pathlib import Path

from daso_tf.commands import terminal
from daso_tf.commands.of_run import STEP, changed_settings, folder_of_run
from daso_tf.run.finishing import report
from daso_tf.run.inspection.side_by_side import as_text_table, scored, write_comparison
from daso_tf.run.lock import one_run
from daso_tf.run.of_folder import settings_of
from daso_tf.settings.flag import expanded, location, switch
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings

# What may differ from the run. The other flags are those of its flag file.
_OF_RUN = ("best", "cache_dir", "data_dir", "evaluation_batch_size")


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
    folder, changed = folder_of_run("report", arguments), changed_settings(settings, _OF_RUN)
    # Files are read when they are needed, so that their number does not matter.
    of_run = settings_of(folder, **changed, stream="true")
    with one_run(of_run):
        page = report(of_run, settings.step)
    print(f"Wrote {page}, and the tables next to it.")
    return 0


def _compare(settings: Settings, arguments: list[str]) -> int:
    """Writes several runs side by side, and prints their scores."""
    if given := [name for name in ("step", *_OF_RUN) if name in settings.given]:
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


COMMAND = terminal.Command(
    "report",
    main,
    flags=(
        STEP,
        switch("compare", False, "Show several runs side by side, by their results alone."),
        location(
            "output",
            None,
            "File to write with --compare.",
            shown_default="comparison.html",
        ),
        *(TRAIN[name] for name in _OF_RUN),
    ),
    usage="RUN...",
    details="RUN is the folder of a training run. The files are RUN/report.html,\n"
    "RUN/unlabeled.csv, RUN/labeled.csv, the same as .jsonl, and the lists in RUN/report/.\n"
    "With --compare, there are two or more RUNs, and one file shows them side by side.\n"
    "Exit code: 0 written, 2 nothing was started.",
)
