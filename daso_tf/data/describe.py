"""The command of `daso_tf.commands.describe`."""

from daso_tf.commands import terminal
from daso_tf.commands.describe import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
