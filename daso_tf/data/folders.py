"""Lists folders of any depth: without recursion, and without leaving out what cannot be listed."""

import os
from collections.abc import Iterator

from daso_tf.data.errors import DataError


def visible(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder that are not hidden, sorted by name.

    Args:
        folder: The folder.

    Raises:
        DataError: If it cannot be listed.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        name = os.fspath(folder)
        shown = repr(name) if len(name) < 200 else f"{name[:150]!r}... ({len(name)} characters)"
        raise DataError(f"{shown} cannot be listed: {error.strerror or error}.") from error
    return sorted(entries, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    # os.path.isdir returns False for a link to itself; DirEntry.is_dir would raise.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def files_below(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Yields the visible files of a folder, sorted by name, then those of its subfolders.

    Links to folders are not followed.

    Args:
        folder: The folder.

    Raises:
        DataError: If a folder cannot be listed.
    """
    folders: list[str | os.PathLike[str]] = [folder]
    while folders:
        entries = visible(folders.pop())
        yield from (entry for entry in entries if not is_folder(entry))
        folders += (
            entry for entry in reversed(entries) if is_folder(entry) and not entry.is_symlink()
        )
