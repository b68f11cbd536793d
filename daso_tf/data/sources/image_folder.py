"""A folder of image files, one folder a class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN
from daso_tf.data.pools import FilePool
from daso_tf.data.sources.source import Source

_LAYOUT = """Expected
  train/<class>/*       images whose class is known
  test/<class>/*        images to report on
  unlabeled/**          optional: images whose class is not known, in folders of any depth
  validation/<class>/*  optional"""


def image_folder(data_dir: str | os.PathLike | None) -> Source:
    """Lists the image files under a folder.

    Classes are the folders in `train`, sorted by name; the first is the head class of a carved
    split. Files are sorted by name, so that nothing depends on the file system's order. Hidden
    files and folders are left out; anything else has to be an image.

    Args:
        data_dir: folder with `train/<class>/*` and `test/<class>/*`, optionally `unlabeled/**`
            and `validation/<class>/*`.

    Returns:
        A `Source`. Without an `unlabeled` folder its `unlabeled` is None.

    Raises:
        DataError: a folder is missing or empty, or a class of another part is not in `train`.
    """
    if data_dir is None:
        raise DataError(f"image_folder needs data_dir, the folder of the images. {_LAYOUT}")
    root = Path(data_dir)
    for folder in (root, root / "train", root / "test"):
        if not os.path.isdir(folder):  # unlike Path.is_dir, False where it may not be looked at
            raise DataError(f"There is no folder {str(folder)!r} that may be read. {_LAYOUT}")
    class_names = tuple(folder.name for folder in _class_folders(root / "train"))
    if len(class_names) < 2:
        raise DataError(
            f"{str(root / 'train')!r} has {len(class_names)} class folders; a classifier needs at "
            f"least 2 classes. {_LAYOUT}"
        )
    _check_names(class_names)
    return Source(
        class_names=class_names,
        train=_class_pool(root / "train", class_names),
        test=_class_pool(root / "test", class_names),
        unlabeled=_unlabeled_pool(root / "unlabeled"),
        validation=_class_pool(root / "validation", class_names),
    )


def _check_names(class_names: Sequence[str]) -> None:
    """Refuses names that no result could be written with: file systems allow any bytes."""
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"The class folder {name!r} has a name that is no UTF-8 text; rename it."
            ) from error


def _class_pool(part: Path, class_names: Sequence[str]) -> FilePool | None:
    if not os.path.lexists(part):
        return None
    files, labels = [], []
    for folder in _class_folders(part):
        if folder.name not in class_names:
            raise DataError(
                f"{folder.path!r} is a class that is not in train ({len(class_names)} classes: "
                f"{', '.join(map(repr, class_names[:10]))}{', ...' * (len(class_names) > 10)}). "
                "Add it there or remove it here."
            )
        members = _visible(folder)
        for entry in members:
            if _is_folder(entry):
                raise DataError(
                    f"{entry.path!r} is a folder; folders of a class hold image files only."
                )
        files += members
        labels += [class_names.index(folder.name)] * len(members)
    return FilePool(_checked_paths(part, files), np.array(labels, np.int32))


def _unlabeled_pool(part: Path) -> FilePool | None:
    if not os.path.lexists(part):  # a link that leads nowhere does exist, and is refused
        return None
    paths = _checked_paths(part, list(_walk(part, set())))
    return FilePool(paths, np.full(len(paths), UNKNOWN, np.int32))


def _class_folders(part: Path) -> list[os.DirEntry]:
    folders = _visible(part)
    for entry in folders:
        if not _is_folder(entry):
            raise DataError(f"{entry.path!r} is not in the folder of a class. {_LAYOUT}")
    return folders


def _walk(folder: os.PathLike, entered: set[str]) -> Iterator[os.DirEntry]:
    """Yields the files below a folder; a folder that links lead to again is entered once."""
    if (real := os.path.realpath(folder)) in entered:
        return
    entered.add(real)
    for entry in _visible(folder):
        if _is_folder(entry):
            yield from _walk(entry, entered)
        else:
            yield entry


def _visible(folder: os.PathLike) -> list[os.DirEntry]:
    """Returns what is in a folder and not hidden, sorted by name."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{os.fspath(folder)!r} cannot be listed: {error}.") from error
    return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    # A link that leads to itself is none; DirEntry.is_dir would raise.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_endless(entry: os.DirEntry) -> bool:
    """Whether it is a pipe or a device, which a reader may wait for forever."""
    if entry.is_symlink():
        return os.path.exists(entry.path) and not os.path.isfile(entry.path)
    return not entry.is_file()


def _checked_paths(part: Path, files: Sequence[os.DirEntry]) -> list[str]:
    if not files:
        raise DataError(f"{str(part)!r} holds no images; add some or remove the folder. {_LAYOUT}")
    for entry in files:
        if _is_endless(entry):
            raise DataError(f"{entry.path!r} is no file but a pipe or a device; remove it.")
    return [entry.path for entry in files]
