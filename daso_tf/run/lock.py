"""One run per folder: a lock that the kernel releases when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from daso_tf.platform.files import remove_unfinished
from daso_tf.platform.strategies import worker_from_environment
from daso_tf.settings.settings import Settings

NAME = ".lock"  # of the file in the folder of a run
# What flock answers where a file system has no locks: some FUSE mounts, Lustre without `flock`.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class LockedError(OSError):
    """Another process uses the folder."""


@contextlib.contextmanager
def one_run(settings: Settings) -> Iterator[None]:
    """Holds the folder of a run; with several workers, the chief holds it.

    Args:
        settings: The settings of the run, completed.

    Raises:
        LockedError: If another process holds it.
        OSError: If the folder cannot be written.
        ValueError: If `TF_CONFIG` does not say which worker this is.
    """
    if settings.strategy == "multi_worker" and worker_from_environment().rank:
        yield
        return
    with locked(Path(settings.model_dir)):
        remove_unfinished(Path(settings.model_dir))
        yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, and makes the folder if there is none.

    `flock` is relied on: it is exclusive among all processes of a machine, on Linux and on macOS,
    and the kernel releases it when the process ends. On NFS, Linux turns it into a lock of the
    server, which holds for all machines. A second lock in the same process is refused, too, which
    `lockf` would not do. Where a file system has no locks, a warning says so.

    Args:
        folder: The folder. If it is still empty at the end, it is removed again.

    Raises:
        LockedError: If another process holds it. The message names that process and its host.
        OSError: If the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    descriptor = _acquire(path, folder)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            if _has_name(descriptor, path):
                path.unlink()
        os.close(descriptor)
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()


def _acquire(path: Path, folder: Path) -> int:
    """Returns a descriptor of the lock file that has the lock."""
    while True:
        # NFS gives exclusive locks only to files that are open for writing.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise LockedError(
                f"{folder} is in use by {holder or 'another process'}. Wait until it has ended, or"
                " start a run of its own in another --model_dir."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            logging.warning("%s has no locks: do not start a second run in it (%s)", folder, error)
            return descriptor
        # The process before may have removed the file between `open` and `flock`. A lock on a file
        # without a name excludes nobody.
        if _has_name(descriptor, path):
            return descriptor
        os.close(descriptor)


def _has_name(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of that name; another one may have taken its place."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
