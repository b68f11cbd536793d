"""A folder of image files, with one folder per class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from daso_tf.data.errors import DataError
from daso_tf.data.folders import is_folder, visible
from daso_tf.data.images import UNKNOWN
from daso_tf.data.pools import FilePool
from daso_tf.data.sources.clutter import Clutter
from daso_tf.data.sources.part_names import NO_CLASS, PARTS, nearest_part, part_of
from daso_tf.data.sources.source import Source

_LAYOUT = """Expected
  train/<class>/*       training images whose class is known
  test/<class>/*        optional: images for the final result
  unlabeled/**          optional: training images of unknown class, in folders of any depth
  validation/<class>/*  optional: images for choosing settings
  test/_unknown/*       optional: images of no class, to measure how well they are recognized"""


def image_folder(data_dir: str | os.PathLike[str] | None) -> Source:
    """Lists the image files in a folder.

    The classes are the folders in `train`, sorted by name. Files are sorted by name, so the order
    of the file system does not matter. Hidden files and folders are ignored. What systems and
    programs leave next to pictures is skipped with a note in the log, and so are folders that are
    no part. All other files must be images.

    Args:
        data_dir: Folder with `train/<class>/*`, optionally `test/<class>/*`, `unlabeled/**`,
            `validation/<class>/*`, and `test/_unknown/**` with images of no class. Other spellings
            of the parts' names are known, such as `Val`.

    Returns:
        A `Source`. Its `unlabeled` is None if there is no folder `unlabeled`.

    Raises:
        DataError: If a folder is missing or empty, or another part has a class that `train` lacks.
    """
    if data_dir is None:
        raise DataError(f"image_folder needs data_dir, the folder of the images. {_LAYOUT}")
    root = Path(data_dir)
    if not os.path.isdir(root):  # unlike Path.is_dir, returns False if access is denied
        raise DataError(f"There is no folder {str(root)!r}, or access to it is denied. {_LAYOUT}")
    clutter = Clutter(root)
    parts = _part_folders(root, clutter)
    class_names = tuple(folder.name for folder in _class_folders(parts["train"], clutter))
    if NO_CLASS in class_names:
        raise DataError(
            f"{str(parts['train'] / NO_CLASS)!r} has the name for images of no class, which "
            "has no place in train. Move them to the unlabeled images or to test, or rename it if "
            "it is a class."
        )
    unknown = _unknown_pool(parts, clutter)
    if len(class_names) < 2:
        raise DataError(
            f"{str(parts['train'])!r} has {len(class_names)} class folders; a classifier needs at "
            f"least 2 classes. {_LAYOUT}"
        )
    _check_names(class_names)
    pools = {
        part: _unlabeled_pool(folder, clutter)
        if part == "unlabeled"
        else _class_pool(folder, class_names, clutter)
        for part, folder in parts.items()
    }
    if note := clutter.note():
        logging.warning("In %r these are no pictures and are skipped: %s", str(root), note)
    return Source(
        class_names=class_names,
        train=pools["train"],
        test=pools.get("test"),
        unlabeled=pools.get("unlabeled"),
        validation=pools.get("validation"),
        unknown=unknown,
    )


def _part_folders(root: Path, clutter: Clutter) -> dict[str, Path]:
    """Returns the folder of each part that there is, and logs what else is there."""
    # A broken link counts: listing it fails with an error. It must not pass for a missing folder.
    parts: dict[str, Path] = {}
    others = []
    for entry in _visible(root, clutter):
        part = part_of(entry.name)
        if part in parts:
            raise DataError(
                f"{str(parts[part])!r} and {entry.path!r} are both a folder of {part} images. Keep "
                f"one of them, or join them. {_LAYOUT}"
            )
        if part:
            parts[part] = Path(entry.path)
        elif near := nearest_part(entry.name):
            others.append(f"{entry.name!r} (rename it to {near!r} if it is this part)")
        else:
            others.append(repr(entry.name))
    unused = ", ".join(others[:10]) + f" and {len(others) - 10} more" * (len(others) > 10)
    if "train" not in parts or not os.path.isdir(parts["train"]):
        found = f" Not used are {unused}." if others else ""
        raise DataError(
            f"There is no folder {str(parts.get('train', root / 'train'))!r}, or access to it is "
            f"denied.{found} {_LAYOUT}"
        )
    if others:
        logging.warning("In %r only %s are used, and not %s", str(root), ", ".join(PARTS), unused)
    return parts


def _check_names(class_names: Sequence[str]) -> None:
    """Refuses names that results cannot be written with; file systems allow any bytes."""
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"The name of the class folder {name!r} is not UTF-8 text; rename it."
            ) from error


def _class_pool(part: Path, class_names: Sequence[str], clutter: Clutter) -> FilePool:
    files: list[os.DirEntry[str]] = []
    labels: list[int] = []
    for folder in _class_folders(part, clutter):
        if folder.name not in class_names:
            raise DataError(
                f"{folder.path!r} is a class that is not in train ({len(class_names)} classes: "
                f"{', '.join(map(repr, class_names[:10]))}{', ...' * (len(class_names) > 10)}). "
                "Add the class to train, or remove this folder."
            )
        members = _visible(folder, clutter)
        for entry in members:
            if is_folder(entry):
                raise DataError(
                    f"{entry.path!r} is a folder. The folder of a class may hold only image files; "
                    "move the images up and remove it."
                )
        files += members
        labels += [class_names.index(folder.name)] * len(members)
    return FilePool(_checked_paths(part, files), np.array(labels, np.int32))


def _unlabeled_pool(part: Path, clutter: Clutter) -> FilePool:
    paths = _checked_paths(part, list(_walk(part, clutter)))
    return FilePool(paths, np.full(len(paths), UNKNOWN, np.int32))


def _unknown_pool(parts: dict[str, Path], clutter: Clutter) -> FilePool | None:
    """Returns the images of no class; removes test from the parts if it has no others."""
    test = parts.get("test")
    folder = None if test is None else test / NO_CLASS
    if test is None or folder is None or not os.path.isdir(folder):
        return None
    if not _class_folders(test, clutter):
        del parts["test"]
    return _unlabeled_pool(folder, clutter)


def _class_folders(part: Path, clutter: Clutter) -> list[os.DirEntry[str]]:
    """Returns the folders of the classes; in test, that of images of no class is none of them."""
    folders = _visible(part, clutter)
    if part_of(part.name) == "test":
        folders = [folder for folder in folders if folder.name != NO_CLASS]
    for entry in folders:
        if not is_folder(entry):
            raise DataError(f"{entry.path!r} is not in the folder of a class. {_LAYOUT}")
    return folders


def _walk(part: Path, clutter: Clutter) -> Iterator[os.DirEntry[str]]:
    """Yields the files in a folder and its subfolders; links to a folder are followed once."""
    entered = {os.path.realpath(part)}
    entries = _visible(part, clutter)[::-1]
    while entries:
        entry = entries.pop()
        if not is_folder(entry):
            yield entry
        elif (real := os.path.realpath(entry)) not in entered:
            entered.add(real)
            entries += reversed(_visible(entry, clutter))


def _visible(folder: os.PathLike[str], clutter: Clutter) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder that are neither hidden nor clutter, sorted by name."""
    return [entry for entry in visible(folder) if not clutter.has(entry.path, is_folder(entry))]


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
