"""A folder of image files, one folder a class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from daso_tf.data.pools import FilePool
from daso_tf.data.semi_supervised import UNKNOWN, DataError
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
        DataError: a folder is missing, a class of another part is not in `train`, a file is empty.
    """
    if data_dir is None:
        raise DataError(f"image_folder needs data_dir, the folder of the images. {_LAYOUT}")
    root = Path(data_dir)
    for folder in (root, root / "train", root / "test"):
        if not folder.is_dir():
            raise DataError(f"There is no folder {str(folder)!r}. {_LAYOUT}")
    class_names = tuple(folder.name for folder in _class_folders(root / "train"))
    if len(class_names) < 2:
        raise DataError(
            f"{str(root / 'train')!r} has {len(class_names)} class folders; a classifier needs at "
            f"least 2 classes. {_LAYOUT}"
        )
    return Source(
        class_names=class_names,
        train=_class_pool(root / "train", class_names),
        test=_class_pool(root / "test", class_names),
        unlabeled=_unlabeled_pool(root / "unlabeled"),
        validation=_class_pool(root / "validation", class_names),
    )


def _class_pool(part: Path, class_names: Sequence[str]) -> FilePool | None:
    if not part.exists():
        return None
    paths, labels = [], []
    for folder in _class_folders(part):
        if folder.name not in class_names:
            raise DataError(
                f"{str(folder)!r} is a class that is not in train ({len(class_names)} classes: "
                f"{', '.join(map(repr, class_names[:10]))}{', ...' * (len(class_names) > 10)}). "
                "Add it there or remove it here."
            )
        files = _visible(folder)
        for path in files:
            if path.is_dir():
                raise DataError(
                    f"{str(path)!r} is a folder; folders of a class hold image files only."
                )
        paths += files
        labels += [class_names.index(folder.name)] * len(files)
    _check_files(part, paths)
    return FilePool(paths, np.array(labels, np.int32))


def _unlabeled_pool(part: Path) -> FilePool | None:
    if not part.exists():
        return None
    paths = list(_walk(part, set()))
    _check_files(part, paths)
    return FilePool(paths, np.full(len(paths), UNKNOWN, np.int32))


def _class_folders(part: Path) -> list[Path]:
    folders = _visible(part)
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{str(folder)!r} is not in the folder of a class. {_LAYOUT}")
    return folders


def _walk(folder: Path, entered: set[Path]) -> Iterator[Path]:
    """Yields the files below a folder; a folder that links lead to again is entered once."""
    if (real := folder.resolve()) in entered:
        return
    entered.add(real)
    for path in _visible(folder):
        if path.is_dir():
            yield from _walk(path, entered)
        else:
            yield path


def _visible(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"{str(folder)!r} cannot be listed: {error}.") from error
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _check_files(part: Path, paths: Sequence[Path]) -> None:
    """Finds empty files at the start, whether or not the split will select them."""
    if not paths:
        raise DataError(f"{str(part)!r} holds no images; add some or remove the folder. {_LAYOUT}")
    bad = []
    for path in paths:
        try:
            if path.stat().st_size == 0:
                bad.append(f"{str(path)!r} is empty")
        except OSError as error:
            bad.append(f"{str(path)!r} cannot be opened ({error.strerror})")
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(f"{', '.join(bad[:5])}{more}. Replace these files or remove them.")
