"""Files that are complete or absent, whatever stops the process while they are written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Creates or replaces a file in one act.

    Args:
        path: the file, in a folder that exists.
        write: writes the content to the open binary file it is given.

    Example:

    >>> write_atomically(Path("greeting.txt"), lambda file: file.write(b"hello"))
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
