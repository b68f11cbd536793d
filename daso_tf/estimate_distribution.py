"""The command of `daso_tf.commands.estimate_distribution`."""

from daso_tf.commands import terminal
from daso_tf.commands.estimate_distribution import main

if __name__ == "__main__":
    terminal.run(main)
