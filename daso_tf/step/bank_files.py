"""The files of a feature bank: computed once, in pieces, and read without loading them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.platform.disk import naming
from daso_tf.platform.files import write_atomically

PIECE = 64  # images that are computed together; their views are drawn together
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class BankFile:
    """The views of one kind of the images of one part: `KEY.npy`, and `KEY.json` for its state.

    Args:
        folder: The cache folder.
        key: Names the content: a digest of encoder, views and images.
        shape: Images, views of each, and features of a view.
    """

    folder: Path
    key: str
    shape: tuple[int, int, int]

    @property
    def path(self) -> Path:
        """The array: float16, in NumPy's format."""
        return self.folder / f"{self.key}.npy"

    @property
    def state_path(self) -> Path:
        """What is computed: a checksum for every piece of `PIECE` images."""
        return self.folder / f"{self.key}.json"

    @property
    def num_bytes(self) -> int:
        """The size of the array."""
        return int(np.prod(self.shape)) * 2

    def missing(self) -> list[int]:
        """Returns the numbers of the pieces that are not computed yet or are damaged."""
        checksums = self._state()[0]
        try:
            views = self.views()
        except (OSError, ValueError, EOFError):
            return list(range(len(checksums)))
        return [
            number
            for number, checksum in enumerate(checksums)
            if checksum is None or checksum != _checksum(views[_members(number, len(views))])
        ]

    def left_out(self) -> list[int]:
        """Returns the images that could not be read, in whose rows others stand."""
        return self._state()[1]

    def views(self) -> np.ndarray:
        """Maps the array into memory.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is damaged.
            EOFError: If it is empty.
        """
        if not self.shape[0]:  # there is nothing to map
            return np.zeros(self.shape, np.float16)
        views = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if views.shape != self.shape or views.dtype != np.float16:
            raise ValueError(f"{self.path} holds {views.dtype} of shape {views.shape}")
        return views

    def fill(self, compute: Callable[[int, np.ndarray], np.ndarray], left_out: set[int]) -> None:
        """Computes the pieces that are missing, and writes each when it is done.

        A process that computes the same file at the same time is waited for.

        Args:
            compute: Returns float `(images, views, D)` for the number of a piece and the positions
                of its images.
            left_out: The images that turned out to be unreadable so far.

        Raises:
            OSError: If the file cannot be written.
        """
        with naming(self.path), _locked(self.path):
            checksums = self._state()[0]
            for number in (missing := self.missing()):
                checksums[number] = None
            if not missing:
                return
            with open(self.path, "r+b") as file:
                start = self._reserve(file.fileno())
                for number in missing:
                    members = _members(number, self.shape[0])
                    features = compute(number, np.arange(members.start, members.stop))
                    piece = np.ascontiguousarray(features, np.float16)
                    at = start + members.start * piece[0].nbytes
                    os.pwrite(file.fileno(), piece.data.cast("B"), at)
                    checksums[number] = _checksum(piece)
                    if number % 16 == 15 or number == missing[-1]:
                        os.fsync(file.fileno())
                        self._write_state(checksums, left_out)

    def _reserve(self, descriptor: int) -> int:
        """Writes the header and takes the room on the disk; returns where the array starts."""
        header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": self.shape}
        head_file = io.BytesIO()
        np.lib.format.write_array_header_1_0(head_file, header)
        head = head_file.getvalue()
        os.pwrite(descriptor, head, 0)
        whole = len(head) + self.num_bytes
        os.ftruncate(descriptor, whole)
        with contextlib.suppress(AttributeError):  # macOS has no such call
            try:
                os.posix_fallocate(descriptor, 0, whole)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
        return len(head)

    def _state(self) -> tuple[list[int | None], list[int]]:
        """Returns the checksums of the pieces, None where one is missing, and what is left out."""
        count = -(-self.shape[0] // PIECE)
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            checksums, left_out = state["checksums"], state["left_out"]
            numbers = [number for number in (*checksums, *left_out) if number is not None]
            whole = all(type(number) is int for number in numbers) and len(checksums) == count
            if whole and state["version"] == _VERSION:
                return list(checksums), list(left_out)
        except (OSError, ValueError, LookupError, TypeError):
            pass
        return [None] * count, []

    def _write_state(self, checksums: Sequence[int | None], left_out: set[int]) -> None:
        state = {"version": _VERSION, "checksums": list(checksums), "left_out": sorted(left_out)}
        text = json.dumps(state)
        write_atomically(self.state_path, lambda file: file.write(text.encode()))


def check_cache(folder: Path, needed: int = 0) -> None:
    """Finds out whether a cache folder can be written, before any work starts; makes it.

    Args:
        folder: The folder.
        needed: Bytes that must be free.

    Raises:
        DataError: If it cannot be written, or there is not enough room.
    """
    other = "Give another folder with --cache_dir (cache_dir=)"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only trying it shows what permissions, read-only file systems and quotas allow.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(
            f"--cache_dir={folder} cannot be written ({error.strerror or error}). {other}, or make "
            "it writable."
        ) from error
    if needed > free:
        raise DataError(
            f"--cache_dir={folder} has {free / 2**30:.2f} GiB of free space, and the features need "
            f"{needed / 2**30:.2f} GiB. {other}, make room, or give fewer --bank_weak_views and "
            "--bank_strong_views."
        )


def _members(number: int, count: int) -> slice:
    return slice(number * PIECE, min((number + 1) * PIECE, count))


def _checksum(piece: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(piece).data.cast("B"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for other processes that write a file; makes the file if there is none."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
