"""The command of `daso_tf.commands.workers`."""

from daso_tf.commands import terminal
from daso_tf.commands.workers import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
