"""Files that are complete or absent, even if the process stops while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Creates or replaces a file in one operation.

    Args:
        path: The file, in a folder that exists.
        write: Writes the content to the open binary file that it gets.

    Example:

    >>> write_atomically(Path("greeting.txt"), lambda file: file.write(b"hello"))
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
