"""A list of image files with their labels, in a CSV or TSV file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN
from daso_tf.data.pools import FilePool
from daso_tf.data.sources.part_names import NO_CLASS, PARTS, part_of, plain
from daso_tf.data.sources.source import Option, Source
from daso_tf.data.text import read_text, refuse_wrong_lines

OPTIONS = {
    "labels": Option((), "image_list: CSV or TSV file with a path, a label and a part per line.")
}

_LAYOUT = f"""Expected a CSV or TSV file with one image per line:
  path,label,part       a header is optional, and so is the part
  1.jpg,cat,            a labeled training image
  2.jpg,,               an unlabeled image
  3.jpg,cat,test        the parts are {", ".join(PARTS)}"""

# What people call the columns, without case, spaces, hyphens and underscores.
_COLUMNS = {
    "path": {"path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "img"},
    "label": {"label", "labels", "class", "classname", "category", "target"},
    "part": {"part", "split", "subset", "set"},
}


class _Row(NamedTuple):
    """A line of the list: its number, and the image's path, label and part."""

    line: int
    path: str
    label: str
    part: str


def image_list(
    data_dir: str | os.PathLike[str] | None, labels: str | os.PathLike[str] | None
) -> Source:
    """Reads a list of image files and their labels.

    The classes are the labels of the training images, sorted by name, or by number where all are
    whole numbers. Images are sorted by path, so the order of the lines does not matter.

    Args:
        data_dir: The folder to which paths are relative; by default the folder of the list.
        labels: A CSV or TSV file. Its columns are path, label and, optionally, part: "train",
            "unlabeled", "validation" or "test", in any spelling that the folders of
            `image_folder` have. An empty label means that the class is not known; an empty part
            means "train", or "unlabeled" for such an image. Test images with the label "_unknown"
            are of no class. The label of an unlabeled image only
            serves to measure pseudo-labels. With a header the columns may have any order, and
            other columns are not used. Columns are separated by a tab, if the first line has one,
            or else by a semicolon, if it has one and no comma, or else by a comma.

    Returns:
        A `Source`. Parts without images are None.

    Raises:
        DataError: If the list cannot be read, or a line has an unknown part, a missing file, a
            class that no training image has, or an image that another line contradicts; all such
            lines are counted, and the first are named with their numbers.
    """
    if labels is None:
        raise DataError(f"image_list needs labels, the list of the images. {_LAYOUT}")
    file = Path(labels)
    root = file.parent if data_dir is None else Path(data_dir)
    rows, wrong = _checked(_rows(file), root)
    unknown = sorted(row.path for row in rows if (row.part, row.label) == ("test", NO_CLASS))
    rows = [row for row in rows if (row.part, row.label) != ("test", NO_CLASS)]
    classes = _sorted({row.label for row in rows if row.part == "train"} - {NO_CLASS})
    number_of = {name: k for k, name in enumerate(classes)}
    _note_similar(classes)
    for row in rows:
        if row.label == NO_CLASS and row.part == "train":
            wrong[row.line] = f"has the label {NO_CLASS!r}, which only test images of no class have"
        elif row.label not in number_of and row.part in ("validation", "test"):
            wrong[row.line] = f"has the label {row.label!r}, which no training image has"
    refuse_wrong_lines(
        file,
        [f"line {line} {wrong[line]}" for line in sorted(wrong)],
        f"Paths are relative to {str(root)!r}. {_LAYOUT}",
    )
    if not classes:
        raise DataError(f"{str(file)!r} has no labeled training image. {_LAYOUT}")
    pools = {}
    for part in PARTS:
        members = sorted((row for row in rows if row.part == part), key=lambda row: row.path)
        numbers = [number_of.get(row.label, UNKNOWN) for row in members]
        paths = [os.path.join(root, row.path) for row in members]
        if members:
            pools[part] = FilePool(paths, np.array(numbers, np.int32))
    if unknown:
        paths = [os.path.join(root, path) for path in unknown]
        pools["unknown"] = FilePool(paths, np.full(len(paths), UNKNOWN, np.int32))
    return Source(
        class_names=classes,
        train=pools["train"],
        test=pools.get("test"),
        unlabeled=pools.get("unlabeled"),
        validation=pools.get("validation"),
        unknown=pools.get("unknown"),
    )


def _rows(file: Path) -> Iterator[_Row]:
    """Yields the lines of the list that are not blank, with known columns."""
    try:
        text = read_text(file)
    except OSError as error:
        raise DataError(f"labels={str(file)!r} cannot be read: {error}. {_LAYOUT}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    columns: dict[str, int] | None = None
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if columns is None:
                columns = _header(file, cells)
                if columns:
                    width = len(cells)
                    continue
                columns, width = {"path": 0, "label": 1, "part": 2}, 3
            if len(cells) > width and any(cells[width:]):
                raise DataError(
                    f"{str(file)!r}: line {reader.line_num} has {len(cells)} columns, and there "
                    f"may be {width}. Put a path that contains the separator in quotes. {_LAYOUT}"
                )
            cells += [""] * (width - len(cells))
            values = {name: cells[place] for name, place in columns.items()}
            yield _Row(reader.line_num, values["path"], values["label"], values.get("part", ""))
    except csv.Error as error:
        raise DataError(f"{str(file)!r}: line {reader.line_num}: {error}. {_LAYOUT}") from error


def _delimiter(text: str) -> str:
    lines = io.StringIO(text, newline=None)
    first = next((line for line in lines if line.strip()), "")
    if "\t" in first:
        return "\t"
    return ";" if ";" in first and "," not in first else ","


def _header(file: Path, cells: Sequence[str]) -> dict[str, int]:
    """Returns the place of each column that a header names; empty if it is no header."""
    names = list(map(plain, cells))
    places = {
        column: [place for place, name in enumerate(names) if name in known]
        for column, known in _COLUMNS.items()
    }
    if not (places["path"] and places["label"]):
        return {}
    for column, found in places.items():
        if len(found) > 1:
            raise DataError(
                f"{str(file)!r} has {len(found)} columns for the {column}: "
                f"{', '.join(repr(cells[place]) for place in found)}. Rename all but one of them."
            )
    used = {place for found in places.values() for place in found}
    if unused := [cell for place, cell in enumerate(cells) if place not in used and cell]:
        logging.warning("%r: columns that are not used: %s", str(file), ", ".join(unused))
    return {column: found[0] for column, found in places.items() if found}


def _checked(rows: Iterator[_Row], root: Path) -> tuple[list[_Row], dict[int, str]]:
    """Returns the rows with complete parts, each image once, and what is wrong, by line."""
    first_of: dict[str, _Row] = {}
    wrong: dict[int, str] = {}
    repeated = 0
    for row in rows:
        part = part_of(row.part) if row.part else "train"
        if part == "train" and not row.label:
            part = "unlabeled"
        if part is None:
            wrong[row.line] = f"has the part {row.part!r}; it must be {', '.join(PARTS)}, or empty"
            continue
        if not row.label and part != "unlabeled":
            wrong[row.line] = f"has no label, which a {part} image needs"
            continue
        path = _existing(root, row.path)
        if path is None:
            wrong[row.line] = f"has {row.path!r}, and there is no such file"
            if not first_of and len(wrong) == 1:
                wrong[row.line] += " (a header must name the columns path and label)"
            continue
        row = row._replace(path=path, part=part)
        first = first_of.setdefault(path, row)
        if first is row:
            continue
        if (first.label, first.part) == (row.label, row.part):
            repeated += 1
        else:
            wrong[row.line] = (
                f"has {path!r} with the label {row.label!r} in {row.part}, but line {first.line} "
                f"has it with the label {first.label!r} in {first.part}"
            )
    if repeated:
        logging.warning("%d lines of the list repeat an image and are skipped.", repeated)
    return list(first_of.values()), wrong


def _existing(root: Path, path: str) -> str | None:
    """Returns the normal form of a path if there is such a file; Windows has other separators."""
    for spelling in (path, path.replace("\\", "/")):
        if path and os.path.isfile(os.path.join(root, spelling)):
            return os.path.normpath(spelling)
    return None


def _note_similar(classes: Sequence[str]) -> None:
    """Logs classes that are probably one class in two spellings."""
    spellings: dict[str, list[str]] = {}
    for name in classes:
        spellings.setdefault(plain(name), []).append(name)
    if similar := [names for names in spellings.values() if len(names) > 1]:
        groups = "; ".join(", ".join(map(repr, names)) for names in similar[:5])
        logging.warning("These labels are different classes: %s.", groups)


def _sorted(labels: set[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(labels))
