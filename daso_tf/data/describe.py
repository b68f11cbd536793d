"""The command of `daso_tf.commands.describe`."""

from daso_tf.commands import terminal
from daso_tf.commands.describe import main

if __name__ == "__main__":
    terminal.run(main)
