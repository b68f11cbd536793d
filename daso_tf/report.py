"""The command of `daso_tf.commands.report`."""

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS

if __name__ == "__main__":
    terminal.run(COMMANDS["report"])
