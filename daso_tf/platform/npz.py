"""Reads `.npz` files that may be damaged or foreign: every array is checked before it is read."""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from daso_tf.platform.disk import open_file

_SUFFIX = ".npy"
# A compressed file can hold a thousand times its size; larger ones must not be compressed.
_MOST_UNPACKED = 2**30  # bytes


class Header(NamedTuple):
    """What a file says about one of its arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype


class ArrayFile:
    """An open `.npz` file. Use it as a context manager.

    A header may claim any size, and NumPy allocates what it claims. Here an array is only read if
    the file has as many bytes as its header claims, so that no array takes more memory than the
    file takes disk space, or 1 GiB where it is compressed.

    Args:
        path: The file.

    Attributes:
        headers: Shape and type of each array by its name.

    Raises:
        OSError: If the file cannot be read.
        Exception: Of many kinds, if it is damaged or something else.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", step=np.arange(3))
    ...     with ArrayFile(f"{folder}/a.npz") as file:
    ...         file.headers["step"].shape, file["step"]
    ((3,), array([0, 1, 2]))
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._file = open_file(path)
        try:
            self._archive = zipfile.ZipFile(self._file)
            self._members = {
                info.filename.removesuffix(_SUFFIX): info for info in self._archive.infolist()
            }
            _check_unpacked(self._members.values(), self._file)
            self.headers = {name: self._header(name) for name in self._members}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> np.ndarray:
        with self._archive.open(self._members[name]) as member:
            # Reads to the end of the member, where its checksum is compared.
            return np.lib.format.read_array(member, allow_pickle=False)

    def _header(self, name: str) -> Header:
        info = self._members[name]
        with self._archive.open(info) as member:
            header = _read_header(member)
            claimed = math.prod(header.shape) * header.dtype.itemsize
            if header.dtype.hasobject:
                raise ValueError(f"{name} holds Python objects, not numbers")
            if claimed != info.file_size - member.tell():
                raise ValueError(
                    f"{name} claims {claimed:,} bytes and has {info.file_size - member.tell():,}"
                )
        return header


def _read_header(member: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"an array has version {version} of NumPy's format, not 1.0 or 2.0")
    shape, _, dtype = read[version](member)
    return Header(shape, dtype)


def _check_unpacked(members, file: BinaryIO) -> None:
    """Refuses a file that unpacks to far more bytes than it has."""
    unpacked = sum(info.file_size for info in members)
    size = os.fstat(file.fileno()).st_size
    if unpacked > max(size, _MOST_UNPACKED):
        raise ValueError(f"it has {size:,} bytes and unpacks to {unpacked:,}")
