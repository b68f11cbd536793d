"""Lists the presets: flag files that the package contains.

daso-tf presets
daso-tf train --flagfile=digits_lt.cfg
"""

from __future__ import annotations

from daso_tf.commands.command_lines import COMMANDS
from daso_tf.settings.settings import Settings, presets


def main(settings: Settings, arguments: list[str]) -> int:
    """Prints one line per preset: its name and its first comment line.

    Args:
        settings: There are no flags.
        arguments: There are none.

    Returns:
        The exit code.
    """
    found = presets()
    width = max(map(len, found), default=0)
    for name, comment in found.items():
        print(f"{name:<{width}}  {comment}")
    return 0


COMMAND = COMMANDS["presets"]
