"""The command of `daso_tf.commands.combinations`."""

from daso_tf.commands import terminal
from daso_tf.commands.combinations import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
