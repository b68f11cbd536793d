"""Commands and notebooks that start without the messages of TensorFlow's libraries.

TensorFlow 2.21 writes some of them while it is imported, before any of its settings has an effect.
So they import it with the standard error stream redirected, and show what was written there only if
the import fails.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from daso_tf.platform import signals

VERBOSE = ("debug", "info")


def is_command() -> bool:
    """Whether this process is a command of this package, not a program that imports it."""
    return _module()[:1] == ["daso_tf"] or Path(sys.argv[0]).name == "daso-tf"


def is_in_folder() -> bool:
    """Whether it is one such as `python -m daso_tf.augment.preview`.

    Python imports the folder first, and with it TensorFlow.
    """
    return len(_module()) > 2


def _module() -> list[str]:
    """Returns the parts of the name of the module that `python -m` runs."""
    arguments = sys.orig_argv[1:]
    return arguments[arguments.index("-m") + 1].split(".") if "-m" in arguments[:-1] else []


def is_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    return "ipykernel" in sys.modules


def is_verbose() -> bool:
    """Whether the command line asks for messages, by `--verbosity`; read before it is parsed."""
    text = " ".join(sys.argv[1:])
    return any(f"--verbosity{by}{level}" in text for level in VERBOSE for by in "= ")


@contextlib.contextmanager
def start() -> Iterator[None]:
    """Hides what TensorFlow's libraries write to the standard error stream in this context.

    In programs that import the package, nothing changes. In a notebook that has imported TensorFlow
    before, the messages are already there.
    """
    if not (is_command() or is_notebook()) or is_verbose():
        yield
        return
    # At level 2, TensorFlow's GPU build reports as an error that there is no GPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if Path("/dev/nvidia0").exists() else "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as written:
        stream = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            with signals.written_to(stream):
                yield
        except BaseException:
            written.seek(0)
            os.write(stream, written.read())
            raise
        finally:
            os.dup2(stream, 2)
            os.close(stream)
