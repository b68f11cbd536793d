"""How every command of this package begins and fails: flags in, one line for what is wrong."""

import sys
from collections.abc import Callable

from absl import app, flags

UNUSABLE = 2  # exit code: a setting, a file or the data cannot be used; nothing was begun


def run(main: Callable[[list[str]], int]) -> None:
    """Runs a command and exits with its code; a wrong flag is one line and exit code 2.

    Args:
        main: takes the program's name and the arguments that are not flags, returns an exit code.
    """

    def parse(argv):
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            sys.exit(fail(f"{error} (--help lists all flags)"))

    app.run(main, flags_parser=parse)


def fail(message: object, code: int = UNUSABLE) -> int:
    """Prints what is wrong to stderr, after the command's name.

    Args:
        message: one line.
        code: the exit code.

    Returns:
        The exit code, to be returned by the command.
    """
    specification = sys.modules["__main__"].__spec__  # None in a script or a shell
    print(f"{specification.name if specification else sys.argv[0]}: {message}", file=sys.stderr)
    return code
