"""The console command `daso-tf`: runs the command that its first argument names."""

from __future__ import annotations

import difflib
import sys

import daso_tf
from daso_tf.commands import SUMMARIES, terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.platform import signals

_HELP = ("--help", "-h", "-help", "help")


def main() -> None:
    """Runs the process's own command line and exits with its code."""
    signals.exit_with(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Runs a command line in this process.

    Args:
        arguments: The name of a command, then its flags and arguments.

    Returns:
        The exit code.
    """
    name, *rest = arguments or ["--help"]
    if name in _HELP:
        print(help_of_all())
        return 0
    if name == "--version":
        print(daso_tf.__version__)
        return 0
    if name not in SUMMARIES:
        nearest = difflib.get_close_matches(name.replace("_", "-"), SUMMARIES, 1, cutoff=0)
        return terminal.fail(f"there is no command {name!r}; did you mean {nearest[0]!r}?")
    return terminal.call(COMMANDS[name], rest)


def help_of_all() -> str:
    """Returns the list of commands."""
    width = max(map(len, SUMMARIES))
    return "\n".join(
        [
            "usage: daso-tf COMMAND [--FLAG=VALUE ...] [ARGUMENT ...]",
            "",
            "Semi-supervised learning on imbalanced data.",
            "",
            *(f"  {name:<{width}}  {summary}" for name, summary in SUMMARIES.items()),
            "",
            "`daso-tf COMMAND --help` lists the flags of a command. `daso-tf --version` prints the "
            "version.",
            "Exit code: 0 done, 1 could not finish, 2 not started, 130 interrupted, 143 SIGTERM.",
        ]
    )
