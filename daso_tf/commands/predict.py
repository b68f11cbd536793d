"""Classifies image files with an exported model.

    daso-tf predict --model=runs/digits_lt/export PATH...

The output is CSV with one line per image: path, class number, class name (empty where the model
has no names) and probability. `--top=3` adds the same of the second and third class, and
`--unknown` whether the image belongs to no class. `--format=jsonl` writes one JSON object per line
instead.
"""

from __future__ import annotations

import collections
import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import tensorflow as tf

from daso_tf.commands import terminal
from daso_tf.commands.served_model import ServedModel, open_model
from daso_tf.data import DataError, read_image
from daso_tf.data.folders import files_below
from daso_tf.data.memory import Budget
from daso_tf.data.sources.clutter import Clutter
from daso_tf.data.text import as_cell
from daso_tf.platform.disk import naming
from daso_tf.settings.flag import choice, expanded, integer, location, switch
from daso_tf.settings.flags import MAX_MEGAPIXELS
from daso_tf.settings.settings import Settings

BATCH_SIZE = 64
_BATCH_PIXELS = 2**22  # of all images of a batch together, unless it is one image
_THREADS = min(os.cpu_count() or 1, 8)  # each holds a decoded image
# Resizing takes some 28 bytes per pixel. All threads together resize so many pixels at a time.
_resizing = Budget(2**24)

# A class number, its name (None without names) and its probability, the most probable first.
Ranking = list[tuple[int, str | None, float]]


class Answer(NamedTuple):
    """What a model says about an image.

    Attributes:
        ranking: Its most probable classes.
        unknown: Its unknown score, and whether it belongs to no class; None from a model that does
            not tell.
    """

    ranking: Ranking
    unknown: tuple[float, bool] | None


Writer = Callable[[Path, Answer], None]


def main(settings: Settings, arguments: list[str]) -> int:
    """Classifies the files of a command line.

    Args:
        settings: The values of the flags.
        arguments: Paths of image files and of folders with image files, or patterns of them.

    Returns:
        The exit code.
    """
    if not settings.model or not arguments:
        return terminal.fail("needs a model and images: --model=FOLDER PATH...")
    if not os.path.exists(settings.model):
        return terminal.fail(f"there is no model {settings.model!r}")
    clutter = Clutter(os.getcwd())
    paths = list(image_paths(arguments, clutter))
    if note := clutter.note():
        terminal.fail(f"left out, as they are no pictures: {note}")
    if not paths:
        return terminal.fail(f"there are no pictures in {', '.join(map(repr, arguments))}")
    model = open_model(settings.model)
    if settings.top > model.num_classes:
        return terminal.fail(f"--top={settings.top}, but the model has {model.num_classes} classes")
    if settings.unknown and not model.tells_unknown:
        return terminal.fail(
            f"--unknown: {settings.model!r} does not tell images of no class; export a run that "
            "was trained with --open_set"
        )
    output = _opened_output(settings.output)
    with naming(settings.output or "standard output"), output:
        write = _FORMATS[settings.format](output, settings.top, settings.unknown)
        unreadable = 0
        for batch, answers in classify(model, paths, settings.top, settings.max_megapixels):
            for path, answer in zip(batch, answers, strict=True):
                if answer is None:
                    unreadable += 1
                else:
                    write(path, answer)
            output.flush()
    if unreadable:
        return terminal.fail(f"{unreadable} of {len(paths)} files left out", terminal.FAILED)
    return 0


def image_paths(arguments: Iterable[str], clutter: Clutter | None = None) -> Iterator[Path]:
    """Yields the image files of a command line.

    Args:
        arguments: Paths of files and folders, or patterns such as `"folder/*.jpg"`; `**` stands
            for folders of any depth. A file is taken as it is. A folder stands for all visible
            files in it and in its subfolders, sorted by name.
        clutter: Remembers the files of folders and patterns that are left out: those that
            systems and programs leave next to pictures.

    Raises:
        ValueError: If a path does not exist, nothing matches a pattern, or a folder cannot be
            listed.
    """
    clutter = clutter or Clutter(os.getcwd())
    for argument in map(expanded, arguments):
        found, is_pattern = [argument], not os.path.lexists(argument) and glob.has_magic(argument)
        if is_pattern:
            found = sorted(glob.glob(argument, recursive=True))
        if not found or not all(map(os.path.exists, found)):
            raise ValueError(f"there is no file or folder {argument!r}")
        for path in found:
            if os.path.isdir(path):
                yield from _pictures_below(path, clutter)
            elif not (is_pattern and clutter.has(path, is_folder=False)):
                yield Path(path)


def _pictures_below(folder: str, clutter: Clutter) -> Iterator[Path]:
    for entry in files_below(folder):
        path = Path(entry.path)
        between = [parent for parent in path.parents if parent.is_relative_to(folder)][:-1]
        skipped = any(clutter.has(str(parent), is_folder=True) for parent in between)
        if not skipped and not clutter.has(entry.path, is_folder=False):
            yield path


def classify(
    model: ServedModel,
    paths: Sequence[Path],
    top: int = 1,
    max_megapixels: float = MAX_MEGAPIXELS.default,
) -> Iterator[tuple[list[Path], list[Answer | None]]]:
    """Yields files in order, in batches, with the classes of each.

    Files are decoded in parallel, a few batches ahead. One line on stderr names each unreadable
    file.

    Args:
        model: The model.
        paths: Image files.
        top: How many classes per image.
        max_megapixels: Largest number of pixels of an image, in millions.

    Returns:
        An iterator over pairs: some paths, and for each of them its `Answer` with the `top` most
        probable classes, or None if the file cannot be read.
    """

    def answered(batch: list[tuple[Path, np.ndarray]]) -> tuple[list[Path], list[Answer | None]]:
        of_batch, images = zip(*batch, strict=True)
        with naming(of_batch[0]):
            answer = model.serve(images=tf.constant(np.stack(images)))
        outputs = {name: value.numpy() for name, value in answer.items()}
        names = outputs.get("class_names", [None] * len(batch))
        unknown: Sequence[tuple[float, bool] | None] = [None] * len(batch)
        if model.tells_unknown:
            scores, is_unknown = (outputs[name].tolist() for name in ("unknown_score", "unknown"))
            unknown = list(zip(scores, is_unknown, strict=True))
        return list(of_batch), [
            Answer(_ranking(probabilities, top, model.class_names, name), of_image)
            for probabilities, name, of_image in zip(
                outputs["probabilities"], names, unknown, strict=True
            )
        ]

    batch: list[tuple[Path, np.ndarray]] = []
    for path, image in _images(model, paths, max_megapixels):
        if image is None:
            yield [path], [None]
            continue
        shape = image.shape
        most = max(1, min(BATCH_SIZE, _BATCH_PIXELS // (shape[0] * shape[1])))
        if batch and (len(batch) >= most or batch[0][1].shape != shape):
            yield answered(batch)
            batch = []
        batch.append((path, image))
    if batch:
        yield answered(batch)


def _ranking(
    probabilities: np.ndarray, top: int, names: tuple[str, ...] | None, first: bytes | None
) -> Ranking:
    order = np.argsort(-probabilities, kind="stable")[:top].tolist()
    shown: list[str | None] = [None] * top
    if names is not None:
        shown = [names[class_id] for class_id in order]
    elif first is not None:  # the model only names the most probable class
        shown[0] = first.decode(errors="surrogateescape")
    return list(zip(order, shown, probabilities[order].tolist(), strict=True))


def _images(
    model: ServedModel, paths: Iterable[Path], max_megapixels: float
) -> Iterator[tuple[Path, np.ndarray | None]]:
    """Yields files in order with their images, or None for unreadable ones."""

    def read(path: Path) -> np.ndarray:
        image = read_image(path, max_megapixels)
        if model.reduce is None:
            return image
        height, width, _ = image.shape
        with _resizing.taking(height * width), naming(path):
            return model.reduce(tf.constant(image[np.newaxis]))[0].numpy()

    # Images that are not reduced may be large.
    ahead = 4 * BATCH_SIZE if model.reduce else _THREADS
    reading: collections.deque[tuple[Path, Future[np.ndarray]]] = collections.deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for path in paths:
            reading.append((path, pool.submit(read, path)))
            if len(reading) > ahead:
                yield _taken(*reading.popleft())
        while reading:
            yield _taken(*reading.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(path: Path, image: Future[np.ndarray]) -> tuple[Path, np.ndarray | None]:
    try:
        return path, image.result()
    except DataError as error:
        terminal.fail(error)
        return path, None


def _csv_writer(output: TextIO, top: int, with_unknown: bool) -> Writer:
    writer = csv.writer(output)
    columns = ["class_id", "class_name", "probability"]
    more = [f"{column}_{rank}" for rank in range(2, top + 1) for column in columns]
    writer.writerow(["path", *columns, *more, *(_UNKNOWN if with_unknown else ())])

    def write(path: Path, answer: Answer) -> None:
        row = [as_cell(str(path))]
        for class_id, name, probability in answer.ranking:
            row += [str(class_id), as_cell(name or ""), f"{probability:.4f}"]
        if with_unknown and answer.unknown is not None:
            score, is_unknown = answer.unknown
            row += [f"{score:.4f}", "yes" if is_unknown else "no"]
        writer.writerow(row)

    return write


def _jsonl_writer(output: TextIO, top: int, with_unknown: bool) -> Writer:
    def write(path: Path, answer: Answer) -> None:
        keys = ("class_id", "class_name", "probability")
        classes = [dict(zip(keys, entry, strict=True)) for entry in answer.ranking]
        line: dict[str, Any] = {"path": str(path), "classes": classes}
        if with_unknown and answer.unknown is not None:
            line |= dict(zip(_UNKNOWN, answer.unknown, strict=True))
        output.write(json.dumps(line) + "\n")

    return write


_UNKNOWN = ("unknown_score", "unknown")
_FORMATS: dict[str, Callable[[TextIO, int, bool], Writer]] = {
    "csv": _csv_writer,
    "jsonl": _jsonl_writer,
}


def _opened_output(path: str | None) -> TextIO:
    """Opens the file, or the terminal if there is none; both can write any file name."""
    # The terminal is opened by a copy of its descriptor, so closing the copy leaves it open.
    target: str | int = path if path else os.dup(sys.stdout.fileno())
    return open(target, "w", newline="", encoding="utf-8", errors="surrogateescape")


COMMAND = terminal.Command(
    "predict",
    main,
    flags=(
        location("model", None, "Required: folder of an exported SavedModel, or a .keras file."),
        location("output", None, "File to write.", shown_default="the terminal"),
        choice("format", "csv", _FORMATS, "What to write: CSV, or one JSON object per line."),
        integer("top", 1, "[1, inf)", "How many classes per image, the most probable first."),
        switch(
            "unknown",
            False,
            "Also write the unknown score of each image, and whether it belongs to no class; needs "
            "the model of a run with --open_set.",
        ),
        MAX_MEGAPIXELS,
    ),
    usage="PATH...",
    details="A SavedModel is a program; use only one that you trust.\n"
    "PATH is an image file, a folder with image files, or a pattern in quotes, such as\n"
    '"folder/*.jpg". The output is CSV with one line per image: path, class number, class\n'
    "name, probability. Names that a spreadsheet would run as formulas begin with '.\n"
    "Exit code: 0 all files were classified, 1 some could not be read, or the disk is full,\n"
    "2 nothing was started, 141 the reader of the output, such as head, has left.",
)
