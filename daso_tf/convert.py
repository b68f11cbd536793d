"""The command of `daso_tf.commands.convert`."""

from daso_tf.commands import terminal
from daso_tf.commands.convert import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
