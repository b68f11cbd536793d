"""The command of `daso_tf.commands.replay`."""

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS

if __name__ == "__main__":
    terminal.run(COMMANDS["replay"])
