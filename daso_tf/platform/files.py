"""Files that are complete or absent, even if the process stops while they are written."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from daso_tf.platform.disk import naming, sync_folder

# The names of `write_atomically`, and those of version 0.1. Other `*.tmp` files are foreign.
_UNFINISHED = re.compile(
    r".*\.[0-9a-f]{32}\.tmp|(results\.json|flags\.cfg|(step|generation)_\d+\.npz)\.tmp"
)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Creates or replaces a file in one operation.

    Args:
        path: The file, in a folder that exists.
        write: Writes the content to the open binary file that it gets.

    Raises:
        OSError: With the name of the file. An earlier file of that name is then unchanged.

    Example:

    >>> write_atomically(Path("greeting.txt"), lambda file: file.write(b"hello"))
    """
    # A name of its own: two processes that write the same file do not take each other's.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with naming(path), open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # part of a file would keep a full disk full
        raise
    with naming(path):
        sync_folder(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes have left unfinished in a folder and its subfolders.

    Args:
        folder: A folder in which no other process writes now.
    """
    for path in folder.rglob("*.tmp"):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()
