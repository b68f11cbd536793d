"""The folder with the output of workers, which the launcher of a later run removes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "daso_tf-workers-"
_LOCK = "launcher.lock"


def make() -> Path:
    """Makes a folder that belongs to this process, and removes those of processes that have ended.

    The output of a failed run is thus there until the next start.

    Returns:
        The folder, in the folder for temporary files.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    # The kernel releases the lock when this process ends, however it ends. The file gets its name
    # when it is locked, so that no other launcher finds it without its lock.
    descriptor = os.open(folder / f".{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.rename(folder / f".{_LOCK}", folder / _LOCK)
    return folder


def _is_left(folder: Path) -> bool:
    """Whether a folder is that of a launcher of this user that has ended."""
    with contextlib.suppress(OSError):  # no such file, another user's, or locked
        if folder.stat(follow_symlinks=False).st_uid == os.getuid():
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            finally:
                os.close(descriptor)
    return False
