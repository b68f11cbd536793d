"""The command of `daso_tf.commands.preview`."""

from daso_tf.commands import terminal
from daso_tf.commands.preview import main

if __name__ == "__main__":
    terminal.run(main)
