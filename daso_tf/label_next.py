"""The command of `daso_tf.commands.label_next`."""

from daso_tf.commands import terminal
from daso_tf.commands.label_next import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
