"""The command of `daso_tf.commands.estimate_distribution`."""

from daso_tf.commands import terminal
from daso_tf.commands.estimate_distribution import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
