"""The command of `daso_tf.commands.predict`."""

from daso_tf.commands import terminal
from daso_tf.commands.predict import COMMAND

if __name__ == "__main__":
    terminal.run(COMMAND)
