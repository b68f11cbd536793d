"""What the disk can do to a run: be full, lose a folder, or hold something that is no file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

import tensorflow as tf


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names a file in the errors of the system that do not, such as that of a full disk.

    Args:
        path: The file or folder that is read or written inside the context.

    Raises:
        OSError: For an `OSError`, and for an error with which TensorFlow reports that a file cannot
            be read or written.

    Example:

    >>> with naming("results.json"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] No space left on device: 'results.json'
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    except tf.errors.OpError as error:
        reason = str(error.message).splitlines() or [type(error).__name__]
        raise OSError(f"{os.fspath(path)!r}: {reason[0]}") from error


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to read it, if it is one: a pipe or a device may never end.

    Args:
        path: The file.

    Returns:
        The open binary file.

    Raises:
        OSError: If there is no such file, or it cannot be read.
        ValueError: If it is not a regular file.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{os.fspath(path)!r} is not a regular file")
    return open(descriptor, "rb")


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Writes the entries of a folder to the disk, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # this file system has no such thing
            raise
    finally:
        os.close(descriptor)
