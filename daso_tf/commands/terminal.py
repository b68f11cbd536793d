"""What all commands share: how they start, how they fail, and their help."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import io
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

from absl import flags
from absl import logging as absl_logging

from daso_tf.commands import SUMMARIES
from daso_tf.platform import signals
from daso_tf.settings.flag import Flag, as_text
from daso_tf.settings.flags import VERBOSITY, other_defaults
from daso_tf.settings.settings import Settings, parse

UNUSABLE = 2  # exit code: a setting, a file or the data cannot be used; nothing was started
FAILED = 1  # exit code: it was started and could not finish
INTERRUPTED = 130  # exit code: Ctrl-C
TERMINATED = 143  # exit code: SIGTERM
READER_LEFT = 141  # exit code: a pipe was closed; shells report it for all programs (SIGPIPE)

# A disk is full, or the share of it that a user may have: what was started could not finish.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the terminal.

    Args:
        name: A key of `SUMMARIES`, and the name of its module.
        flags: The flags that it accepts, as a sequence or by section; `--verbosity` is added.
        usage: The arguments that are not flags, as help shows them.
        details: Further lines for help.
        parses: Whether flags are parsed. If not, `main` gets the whole command line as arguments.
        needs_library: Whether it needs the classes of the library, and TensorFlow.
        check: Refuses settings that cannot be combined, before TensorFlow is imported.
    """

    name: str
    flags: Sequence[Flag] | Mapping[str, Sequence[Flag]] = ()
    usage: str = ""
    details: str = ""
    parses: bool = True
    needs_library: bool = True
    check: Callable[[Settings], None] | None = None

    def main(self, settings: Settings, arguments: list[str]) -> int:
        """Imports what runs the command, and runs it.

        Args:
            settings: The values of the flags.
            arguments: The arguments that are not flags.

        Returns:
            The exit code.

        Raises:
            ValueError: If a setting, a file or the data cannot be used.
            OSError: If a file cannot be read or written.
        """
        if self.check is not None:
            self.check(settings)
        if self.needs_library:
            importlib.import_module("daso_tf.library")  # first, so that TensorFlow starts quietly
        module = importlib.import_module(f"daso_tf.commands.{self.name.replace('-', '_')}")
        return module.main(settings, arguments)

    @property
    def sections(self) -> dict[str, tuple[Flag, ...]]:
        """The flags by section."""
        if not self.parses:
            return {}
        own = self.flags if isinstance(self.flags, Mapping) else {"Flags": self.flags}
        sections = {title: tuple(of_section) for title, of_section in own.items()}
        last = list(sections)[-1]
        return sections | {last: (*sections[last], VERBOSITY)}


def call(command: Command, arguments: Sequence[str]) -> int:
    """Runs a command in this process.

    Args:
        command: The command.
        arguments: The command line without the name of the program.

    Returns:
        The exit code. What is wrong with the command line is one line on stderr and code 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know a letter of a name
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _call(command, arguments)
        sys.stdout.flush()  # here a pipe that its reader has closed is still noticed
        return code
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT
    except (ValueError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        return fail(error, FAILED if full else UNUSABLE)


def run(command: Command) -> None:
    """Runs a command of the process's own command line and exits with its code."""
    signals.exit_with(call(command, sys.argv[1:]))


def _call(command: Command, arguments: Sequence[str]) -> int:
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments):
        print(help_of(command))
        return 0
    if not command.parses:
        return command.main(Settings({}), list(arguments))
    accepted = [flag for of_section in command.sections.values() for flag in of_section]
    try:
        settings, rest = parse(arguments, accepted)
        if rest and not command.usage:
            raise ValueError(f"{rest[0]!r} is not a flag; settings are written --name=value")
    except flags.Error as error:
        return fail(f"{error} (--help lists all flags)")
    _set_verbosity(settings.verbosity)
    return command.main(settings, rest)


def fail(message: object, code: int = UNUSABLE) -> int:
    """Prints to stderr what is wrong, after the name of the program.

    Args:
        message: One line.
        code: The exit code.

    Returns:
        The exit code, for the command to return.
    """
    print(f"daso-tf: {message}", file=sys.stderr)
    return code


def help_of(command: Command) -> str:
    """Writes the help of a command: usage, summary, and every flag with its default."""
    flags = "[--FLAG=VALUE ...] " if command.parses else ""
    usage = f"daso-tf {command.name} {flags}{command.usage}".rstrip()
    lines = [f"usage: {usage}", "", SUMMARIES[command.name]]
    if command.details:
        lines += ["", *command.details.splitlines()]
    for title, of_section in command.sections.items():
        lines += ["", f"{title}:"]
        for flag in of_section:
            lines += _help_of_flag(flag)
    return "\n".join(lines)


def _help_of_flag(flag: Flag) -> list[str]:
    default = flag.shown_default or ("" if flag.default is None else as_text(flag.default))
    texts = [flag.text]
    if flag.choices:
        texts.append(f"One of {', '.join(flag.choices)}.")
    if flag.interval:
        texts.append(f"In {flag.interval}.")
    others = other_defaults(flag.name)
    if default or others:
        named = [
            default or "none",
            *(f"{name}: {as_text(value)}" for name, value in others.items()),
        ]
        texts.append(f"[default: {'; '.join(named)}]")
    body = textwrap.wrap(" ".join(texts), _WIDTH - 6)
    return [f"  --{flag.name}", *(f"      {line}" for line in body)]


def _set_verbosity(level: str) -> None:
    """Sets which messages of TensorFlow, absl and this package are printed."""
    absl_logging.set_verbosity(level)
    logging.getLogger("tensorflow").setLevel(level.upper())
