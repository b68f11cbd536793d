"""Files that are complete or absent, even if the process stops while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from daso_tf.platform.disk import naming, sync_folder


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
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
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
