"""Semi-Aves: photographs of 200 species of birds, and unlabeled ones of 800 more species.

Images: J.-C. Su, S. Maji, "The Semi-Supervised iNaturalist-Aves Challenge at FGVC7 Workshop", 2021,
https://github.com/cvl-umass/semi-inat-2020. Lists: J.-C. Su, Z. Cheng, S. Maji, "A Realistic
Evaluation of Semi-Supervised Learning for Fine-Grained Classification", CVPR 2021,
https://github.com/cvl-umass/ssl-evaluation.
"""

import lzma
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN
from daso_tf.data.pools import FilePool
from daso_tf.data.sources.source import Option, Source
from daso_tf.data.statistics import Statistics
from daso_tf.data.text import decoded, numbered_lines, refuse_wrong_lines

NUM_CLASSES = 200
_MOST_BYTES = 2**26  # of a list, unpacked; the longest published one has less than 2**23

OPTIONS = {
    "labeled": Option(("l_train", "l_train_val"), "semi_aves: its labeled images."),
    "unlabeled": Option(("in", "in+out"), "semi_aves: its unlabeled images."),
}
_UNLABELED_LISTS = {"in": ("u_train_in",), "in+out": ("u_train_in", "u_train_out")}

# ImageNet's channel means and standard deviations, because training on these images usually starts
# from weights trained on ImageNet.
_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_LAYOUT = """Expected the published files:
  l_train.txt, val.txt or l_train_val.txt; test.txt; u_train_in.txt, u_train_out.txt
                                         the lists, also compressed (.txt.xz)
  trainval_images/<class>/*, test/*, u_train_in/*, u_train_out/*
                                         the images in the lists
  species_names.txt                      optional: the names of the classes"""


class ImageList(NamedTuple):
    """The content of a list.

    Args:
        paths: N image files, relative to the folder of the list.
        labels: int32 array of shape (N,), classes 0..199, or all -1 in a list of unlabeled images.
    """

    paths: list[str]
    labels: np.ndarray


def semi_aves(
    data_dir: str | os.PathLike[str] | None, labeled: str = "l_train", unlabeled: str = "in"
) -> Source:
    """Lists the images of Semi-Aves, in the split of its authors.

    Args:
        data_dir: Folder of the lists, `NAME.txt` or `NAME.txt.xz`. Each line is `PATH LABEL`: a
            path relative to this folder, and a class from 0 to 199, or -1 for unlabeled images.
            An optional file `species_names.txt` names the classes, with lines `CLASS NAME`.
            Without it their names are their numbers.
        labeled: "l_train", with the list `val` for validation, or "l_train_val", which contains
            both lists and leaves no validation images.
        unlabeled: "in" for unlabeled images of the 200 species, "in+out" for these and images of
            other species. As many of the latter as there are test images then measure, too, how
            well images of no class are told.

    Returns:
        A `Source`.

    Raises:
        DataError: If a list or an image is missing, or a line of a list is wrong.
    """
    if data_dir is None:
        raise DataError(f"semi_aves needs data_dir, the folder of its lists. {_LAYOUT}")
    root = Path(data_dir)
    validation = ("val",) if labeled == "l_train" else ()
    unlabeled_lists = _UNLABELED_LISTS[unlabeled]
    names = (labeled, *validation, "test", *unlabeled_lists)
    lists = read_lists(root, names)
    _check_images_are_there(root, lists)

    def pool(*names: str) -> FilePool:
        paths = [f"{root}/{path}" for name in names for path in lists[name].paths]
        return FilePool(paths, np.concatenate([lists[name].labels for name in names]))

    unknown = None
    if "u_train_out" in lists:
        others = lists["u_train_out"]
        count = min(len(others.paths), len(lists["test"].paths))
        spread = np.linspace(0, len(others.paths) - 1, count).astype(int)
        unknown = FilePool(
            [f"{root}/{others.paths[place]}" for place in spread], others.labels[spread]
        )
    return Source(
        class_names=_class_names(root),
        train=pool(labeled),
        test=pool("test"),
        unlabeled=pool(*unlabeled_lists),
        validation=pool(*validation) if validation else None,
        statistics=_STATISTICS,
        unknown=unknown,
    )


def read_lists(root: Path, names: Sequence[str]) -> dict[str, ImageList]:
    """Reads lists of images and checks each line, but not whether the images exist.

    Args:
        root: Folder of the lists.
        names: Which lists; names that start with `u_` mean unlabeled images.

    Returns:
        An `ImageList` for each name.

    Raises:
        DataError: If a list is missing or cannot be read, has a line that is not `PATH LABEL`, or
            an image occurs twice, in one list or in two.
    """
    found = {name: _find(root, name) for name in names}
    files = {name: file for name, file in found.items() if file is not None}
    if missing := [f"{name}.txt" for name in names if name not in files]:
        raise DataError(
            f"In {str(root)!r} these lists are missing or cannot be accessed: "
            f"{', '.join(missing)}. {_LAYOUT}"
        )
    list_of: dict[str, str] = {}  # the list that each path is in
    return {name: _read_list(name, file, list_of) for name, file in files.items()}


def _find(root: Path, name: str) -> Path | None:
    files = (root / f"{name}.txt", root / f"{name}.txt.xz")
    return next((file for file in files if os.path.isfile(file)), None)


def _read_list(name: str, file: Path, list_of: dict[str, str]) -> ImageList:
    if name.startswith("u_"):
        label_of, allowed = {str(UNKNOWN): UNKNOWN}, f"{UNKNOWN} for an image of unknown class"
    else:
        label_of = {str(k): k for k in range(NUM_CLASSES)}
        allowed = f"a class from 0 to {NUM_CLASSES - 1}"
    paths, labels, wrong = [], [], []
    for number, line in _lines(file):
        path, _, label = line.rpartition(" ")  # paths may contain spaces
        if not path:
            wrong.append(f"line {number} is {line!r}, not 'PATH LABEL'")
        elif "\0" in path or {"", ".", ".."} & set(path.split("/")):
            wrong.append(
                f"line {number} has the path {path!r}, which must be relative, without '.' and '..'"
            )
        elif label not in label_of:
            wrong.append(f"line {number} has the label {label!r}, not {allowed}")
        elif path in list_of:
            wrong.append(f"line {number} has {path!r}, which is already in {list_of[path]}")
        else:
            list_of[path] = name
            paths.append(path)
            labels.append(label_of[label])
    refuse_wrong_lines(file, wrong)
    if not paths:
        raise DataError(f"{str(file)!r} lists no images; download it again.")
    return ImageList(paths, np.array(labels, np.int32))


def _class_names(root: Path) -> tuple[str, ...]:
    file = _find(root, "species_names")
    if file is None:
        return tuple(map(str, range(NUM_CLASSES)))
    names: list[str] = []
    wrong: list[str] = []
    for number, line in _lines(file):
        label, _, name = line.partition(" ")
        if label != str(len(names)) or not name.strip() or name in names:
            wrong.append(f"line {number} is {line!r}, not '{len(names)} NAME' with a new name")
        names.append(name)
    refuse_wrong_lines(file, wrong)
    if len(names) != NUM_CLASSES:
        raise DataError(f"{str(file)!r} names {len(names)} classes; it must name {NUM_CLASSES}.")
    return tuple(names)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the number and the text of each line that is not blank."""
    opened = lzma.open if file.suffix == ".xz" else open
    try:
        with opened(file, "rb") as stream:
            content = stream.read(_MOST_BYTES + 1)  # unpacks no more than that
        text = decoded(content[:_MOST_BYTES], file)
    except (OSError, EOFError, lzma.LZMAError, DataError) as error:
        raise DataError(f"{str(file)!r} cannot be read: {error}. Download it again.") from error
    if len(content) > _MOST_BYTES:
        raise DataError(
            f"{str(file)!r} has more than {_MOST_BYTES:,} bytes; a list of images is smaller. "
            "Download it again."
        )
    yield from numbered_lines(text)


def _check_images_are_there(root: Path, lists: dict[str, ImageList]) -> None:
    """Reports all missing images together; lists each folder only once."""
    files_of: dict[str, set[str]] = {}
    complaints = []
    for name, (paths, _) in lists.items():
        missing = []
        for path in paths:
            folder, file = posixpath.split(path)
            if folder not in files_of:
                files_of[folder] = _files_in(root / folder)
            if file not in files_of[folder]:
                missing.append(path)
        if missing:
            complaints.append(
                f"{name}: {len(missing):,} of {len(paths):,} images, such as "
                f"{', '.join(map(repr, missing[:5]))}"
            )
    if complaints:
        raise DataError(
            f"Images in the lists are missing in {str(root)!r}:\n  "
            + "\n  ".join(complaints)
            + "\nUnpack the image archives in that folder."
        )


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{str(folder)!r} cannot be listed: {error}.") from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    # os.path.isfile returns False for a link to itself; DirEntry.is_file would raise.
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
