"""A folder of image files, with one folder per class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.data.folders import is_folder, visible
from daso_tf.data.images import UNKNOWN
from daso_tf.data.pools import FilePool
from daso_tf.data.sources.source import Source

_LAYOUT = """Expected
  train/<class>/*       training images whose class is known
  test/<class>/*        images for the final result
  unlabeled/**          optional: training images of unknown class, in folders of any depth
  validation/<class>/*  optional: images for choosing settings"""


def image_folder(data_dir: str | os.PathLike[str] | None) -> Source:
    """Lists the image files in a folder.

    The classes are the folders in `train`, sorted by name. The first is the head class of a
    long-tailed split. Files are sorted by name, so the order of the file system does not matter.
    Hidden files and folders are ignored; all other files must be images.

    Args:
        data_dir: Folder with `train/<class>/*` and `test/<class>/*`, optionally `unlabeled/**`
            and `validation/<class>/*`.

    Returns:
        A `Source`. Its `unlabeled` is None if there is no folder `unlabeled`.

    Raises:
        DataError: If a folder is missing or empty, or another part has a class that `train` lacks.
    """
    if data_dir is None:
        raise DataError(f"image_folder needs data_dir, the folder of the images. {_LAYOUT}")
    root = Path(data_dir)
    for folder in (root, root / "train", root / "test"):
        if not os.path.isdir(folder):  # unlike Path.is_dir, returns False if access is denied
            raise DataError(
                f"There is no folder {str(folder)!r}, or access to it is denied. {_LAYOUT}"
            )
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
        unlabeled=_unlabeled_pool(root / "unlabeled") if _exists(root / "unlabeled") else None,
        validation=_class_pool(root / "validation", class_names)
        if _exists(root / "validation")
        else None,
    )


def _check_names(class_names: Sequence[str]) -> None:
    """Refuses names that results cannot be written with; file systems allow any bytes."""
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"The name of the class folder {name!r} is not UTF-8 text; rename it."
            ) from error


def _exists(part: Path) -> bool:
    # A broken link counts: listing it fails with an error. It must not pass for a missing folder.
    return os.path.lexists(part)


def _class_pool(part: Path, class_names: Sequence[str]) -> FilePool:
    files: list[os.DirEntry[str]] = []
    labels: list[int] = []
    for folder in _class_folders(part):
        if folder.name not in class_names:
            raise DataError(
                f"{folder.path!r} is a class that is not in train ({len(class_names)} classes: "
                f"{', '.join(map(repr, class_names[:10]))}{', ...' * (len(class_names) > 10)}). "
                "Add the class to train, or remove this folder."
            )
        members = visible(folder)
        for entry in members:
            if is_folder(entry):
                raise DataError(
                    f"{entry.path!r} is a folder. The folder of a class may hold only image files; "
                    "move the images up and remove it."
                )
        files += members
        labels += [class_names.index(folder.name)] * len(members)
    return FilePool(_checked_paths(part, files), np.array(labels, np.int32))


def _unlabeled_pool(part: Path) -> FilePool:
    paths = _checked_paths(part, list(_walk(part)))
    return FilePool(paths, np.full(len(paths), UNKNOWN, np.int32))


def _class_folders(part: Path) -> list[os.DirEntry[str]]:
    folders = visible(part)
    for entry in folders:
        if not is_folder(entry):
            raise DataError(f"{entry.path!r} is not in the folder of a class. {_LAYOUT}")
    return folders


def _walk(part: Path) -> Iterator[os.DirEntry[str]]:
    """Yields the files in a folder and its subfolders; links to a folder are followed once."""
    entered = {os.path.realpath(part)}
    entries = visible(part)[::-1]
    while entries:
        entry = entries.pop()
        if not is_folder(entry):
            yield entry
        elif (real := os.path.realpath(entry)) not in entered:
            entered.add(real)
            entries += reversed(visible(entry))


def _is_endless(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe or a device, which may block a reader forever."""
    if entry.is_symlink():
        return os.path.exists(entry.path) and not os.path.isfile(entry.path)
    return not entry.is_file()


def _checked_paths(part: Path, files: Sequence[os.DirEntry[str]]) -> list[str]:
    if not files:
        raise DataError(f"{str(part)!r} has no images; add some or remove the folder. {_LAYOUT}")
    for entry in files:
        if _is_endless(entry):
            raise DataError(f"{entry.path!r} is not a file but a pipe or a device; remove it.")
    return [entry.path for entry in files]
