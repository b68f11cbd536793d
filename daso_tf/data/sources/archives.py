"""CIFAR and STL-10 in the archives of their authors, packed or unpacked.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html (Python version) and
https://cs.stanford.edu/~acoates/stl10/ (binary files).
"""

import dataclasses
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from absl import logging

from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN
from daso_tf.data.memory import empty_images
from daso_tf.data.pools import ArrayPool
from daso_tf.data.sources.restricted_pickle import RestrictedUnpickler

# Bytes of a file: the largest of CIFAR has 155 MB, that of STL-10 2.8 GB.
_MOST_CIFAR, _MOST_STL10 = 2**29, 2**33

_Files = Iterator[tuple[str, int, IO[bytes]]]  # names, sizes in bytes, and contents


@dataclasses.dataclass(frozen=True)
class ArchiveData:
    """The content of an archive, all of it in memory; see `Source` for the arguments."""

    class_names: tuple[str, ...]
    train: ArrayPool
    test: ArrayPool
    unlabeled: ArrayPool | None = None


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published archive.

    Args:
        filename: Its name.
        url: Where it is published.
        bytes: Its size.
        sha256: Its checksum, the same as in Keras and tensorflow-datasets.
        folder: The folder that it unpacks to.
        read: Reads its files.
    """

    filename: str
    url: str
    bytes: int
    sha256: str
    folder: str
    read: Callable[[_Files], ArchiveData]


def read_archive(archive: Archive, data_dir: Path) -> ArchiveData | None:
    """Reads an archive, or the folder that it unpacks to, if one of them is there.

    Args:
        archive: The archive to look for.
        data_dir: The folder to look in.

    Returns:
        An `ArchiveData`, or None if neither is there.

    Raises:
        DataError: If the archive is damaged, incomplete or not in the published format.
    """
    folder, packed = data_dir / archive.folder, data_dir / archive.filename
    if os.path.isdir(folder):  # Path.is_dir raises if access is denied
        place, files = folder, _unpacked_files(folder)
    elif os.path.isfile(packed):
        _check_sum(archive, packed)
        place, files = packed, _packed_files(packed, archive.folder)
    else:
        return None
    try:
        return archive.read(files)
    except DataError:  # a ValueError too, but its message is complete
        raise
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, _FormatError) as error:
        raise DataError(
            f"{str(place)!r} cannot be read: {error}. "
            f"Download {archive.filename} again from {archive.url}."
        ) from error


class _FormatError(Exception):
    """A file does not have the published format."""


def _unpacked_files(folder: Path) -> _Files:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                yield path.name, path.stat().st_size, file


def _packed_files(packed: Path, folder: str) -> _Files:
    """Yields the files of an archive in their order, without writing any to disk."""
    with tarfile.open(packed) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise _FormatError(f"it has a file {member.name!r} outside its own folder")
            if member.isfile() and str(path.parent) == folder:
                content = archive.extractfile(member)
                assert content is not None  # it is a regular file
                yield path.name, member.size, content


def _check_size(name: str, size: int, most: int) -> None:
    """Refuses a file that is far larger than the published one, before it is unpacked."""
    if size > most:
        raise _FormatError(f"{name} has {size:,} bytes; in the published archive it has fewer")


def _check_sum(archive: Archive, packed: Path) -> None:
    if packed.stat().st_size != archive.bytes:
        logging.warning(
            "%s has %d bytes, the published archive %d. The format of its files is checked, its "
            "checksum is not.",
            packed,
            packed.stat().st_size,
            archive.bytes,
        )
        return
    with packed.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise DataError(
            f"{str(packed)!r} is damaged: its SHA-256 is {found}, the published one "
            f"{archive.sha256}. Download it again from {archive.url}."
        )


def _check_complete(found: Collection[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise _FormatError(f"{', '.join(missing)} is missing")


# ---- CIFAR


def _read_cifar10(files: _Files) -> ArchiveData:
    return _read_cifar(
        files, [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "label"
    )


def _read_cifar100(files: _Files) -> ArchiveData:
    return _read_cifar(files, ["train"], "test", "meta", "fine_label")


def _read_cifar(files: _Files, train: list[str], test: str, meta: str, label: str) -> ArchiveData:
    wanted = [*train, test, meta]
    found = {}
    for name, size, file in files:
        _check_size(name, size, _MOST_CIFAR)
        if name in wanted:
            found[name] = _unpickled(name, file)
    _check_complete(found, wanted)
    names = found[meta].get(f"{label}_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise _FormatError(f"{meta} has no list {label}_names")
    pools = {
        name: _cifar_images(name, found[name], f"{label}s", len(names)) for name in wanted[:-1]
    }
    return ArchiveData(
        class_names=tuple(name if isinstance(name, str) else name.decode() for name in names),
        train=ArrayPool(
            np.concatenate([pools[name].images for name in train]),
            np.concatenate([pools[name].labels for name in train]),
        ),
        test=pools[test],
    )


def _unpickled(name: str, file: IO[bytes]) -> dict:
    try:
        record = RestrictedUnpickler(file).load()
    except Exception as error:  # damaged pickles can raise any exception
        raise _FormatError(f"{name} cannot be unpickled: {error}") from error
    if not isinstance(record, dict):
        raise _FormatError(f"{name} holds a {type(record).__name__}, not a dictionary")
    return {key.decode() if isinstance(key, bytes) else key: record[key] for key in record}


def _cifar_images(name: str, record: dict, labels_key: str, num_classes: int) -> ArrayPool:
    data, labels = record.get("data"), np.asarray(record.get(labels_key))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise _FormatError(f"{name} has no uint8 data of shape (N, 3072)")
    # Each row of the data holds the red, the green and the blue plane of an image, row by row.
    images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArrayPool(images, _checked_labels(name, labels, len(images), num_classes))


def _checked_labels(name: str, labels: np.ndarray, count: int, num_classes: int) -> np.ndarray:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise _FormatError(f"{name} has no list of {count} integers, one label per image")
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise _FormatError(
            f"{name} has labels {labels.min()}..{labels.max()} for {num_classes} classes"
        )
    return labels.astype(np.int32)


# ---- STL-10


def _read_stl10(files: _Files) -> ArchiveData:
    pixels: dict[str, np.ndarray] = {}
    texts: dict[str, bytes] = {}
    for name, size, file in files:
        _check_size(name, size, _MOST_STL10 if name.endswith("_X.bin") else _MOST_CIFAR)
        if name in ("train_X.bin", "test_X.bin", "unlabeled_X.bin"):
            pixels[name] = _stl10_images(name, size, file)
        elif name in ("train_y.bin", "test_y.bin", "class_names.txt"):
            texts[name] = file.read()
    wanted = [f"{part}.bin" for part in ("train_X", "train_y", "test_X", "test_y", "unlabeled_X")]
    _check_complete({*pixels, *texts}, [*wanted, "class_names.txt"])
    class_names = tuple(texts["class_names.txt"].decode().split())

    def pool(part: str) -> ArrayPool:
        images = pixels[f"{part}_X.bin"]
        # Classes count from 1 in the files.
        labels = np.frombuffer(texts[f"{part}_y.bin"], np.uint8).astype(np.int32) - 1
        return ArrayPool(
            images, _checked_labels(f"{part}_y.bin", labels, len(images), len(class_names))
        )

    unlabeled = pixels["unlabeled_X.bin"]
    return ArchiveData(
        class_names=class_names,
        train=pool("train"),
        test=pool("test"),
        unlabeled=ArrayPool(unlabeled, np.full(len(unlabeled), UNKNOWN, np.int32)),
    )


def _stl10_images(name: str, size: int, file: IO[bytes]) -> np.ndarray:
    record = 3 * 96 * 96
    count, rest = divmod(size, record)
    if rest:
        raise _FormatError(f"{name} has {size} bytes, not a multiple of {record} (one image)")
    images = empty_images(count, (96, 96))
    for start in range(0, count, 500):  # in blocks: 2.8 GB must not be in memory twice
        stop = min(start + 500, count)
        block = np.frombuffer(file.read((stop - start) * record), np.uint8)
        # Each record holds the red, the green and the blue plane of an image, column by column.
        images[start:stop] = block.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
    return images


ARCHIVES = {
    "cifar10": Archive(
        filename="cifar-10-python.tar.gz",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        bytes=170_498_071,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        folder="cifar-10-batches-py",
        read=_read_cifar10,
    ),
    "cifar100": Archive(
        filename="cifar-100-python.tar.gz",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        bytes=169_001_437,
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        folder="cifar-100-python",
        read=_read_cifar100,
    ),
    "stl10": Archive(
        filename="stl10_binary.tar.gz",
        url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        bytes=2_640_397_119,
        sha256="f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
        folder="stl10_binary",
        read=_read_stl10,
    ),
}
