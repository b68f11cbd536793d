"""The command of `daso_tf.commands.report`."""

from daso_tf.commands import terminal
from daso_tf.commands.report import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
