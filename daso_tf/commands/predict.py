"""Classifies image files with an exported model.

    daso-tf predict --model=runs/digits_lt/export PATH...

The output is CSV with one line per image: path, class number, class name (empty where the model
has no names) and probability.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import tensorflow as tf

from daso_tf.commands import terminal
from daso_tf.data import DataError, read_image
from daso_tf.settings.flag import location
from daso_tf.settings.settings import Settings

BATCH_SIZE = 64

Signature = Callable[..., dict[str, tf.Tensor]]


def main(settings: Settings, arguments: list[str]) -> int:
    """Classifies the files of a command line.

    Args:
        settings: The values of the flags.
        arguments: Paths of image files and of folders with image files.

    Returns:
        The exit code.
    """
    if not settings.model or not arguments:
        return terminal.fail("needs a model and images: --model=FOLDER PATH...")
    paths = list(image_paths(arguments))
    model = load_model(settings.model)
    with _opened_output(settings.output) as output:
        unreadable = classify(model, paths, output)
    if unreadable:
        return terminal.fail(f"{unreadable} of {len(paths)} files left out", terminal.FAILED)
    return 0


def load_model(directory: str) -> Signature:
    """Loads the signature of a SavedModel that `export` wrote.

    Args:
        directory: The folder of the SavedModel.

    Returns:
        A function of `images`, uint8 `(batch, height, width, 3)`, that returns a dictionary with
        `class_ids` `(batch,)`, `probabilities` `(batch, K)` in 0..1 and, if the classes have
        names, `class_names` `(batch,)`.

    Raises:
        ValueError: If there is no such SavedModel.
    """
    if not tf.saved_model.contains_saved_model(directory):
        raise ValueError(f"{directory!r} is not a SavedModel; give the folder of an export")
    loaded = tf.saved_model.load(directory)
    if "serving_default" not in loaded.signatures:
        raise ValueError(f"the SavedModel in {directory!r} has no signature serving_default")
    return loaded.signatures["serving_default"]


def image_paths(arguments: Iterable[str]) -> Iterator[Path]:
    """Yields the image files of a command line.

    Args:
        arguments: Paths of files and folders. A file is taken as it is. A folder stands for all
            visible files in it and in its subfolders, sorted by name.

    Raises:
        ValueError: If a path does not exist.
    """
    for argument in map(Path, arguments):
        if not argument.exists():
            raise ValueError(f"there is no file or folder {str(argument)!r}")
        if not argument.is_dir():
            yield argument
        for folder, folders, files in os.walk(argument):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def classify(model: Signature, paths: Iterable[Path], output: TextIO) -> int:
    """Writes one line of CSV per readable image, and one line to stderr per unreadable file.

    Args:
        model: What `load_model` returns.
        paths: Image files.
        output: The text file to write to.

    Returns:
        The number of files that cannot be read.
    """
    writer = csv.writer(output)
    writer.writerow(["path", "class_id", "class_name", "probability"])
    unreadable: list[Path] = []
    for batch_paths, images in _batches(paths, unreadable):
        outputs = {name: value.numpy() for name, value in model(images=tf.constant(images)).items()}
        class_ids = outputs["class_ids"]
        names = outputs.get("class_names", [b""] * len(class_ids))
        probabilities = outputs["probabilities"].max(axis=1)
        for path, class_id, name, probability in zip(
            batch_paths, class_ids, names, probabilities, strict=True
        ):
            writer.writerow([path, class_id, name.decode(), f"{probability:.4f}"])
        output.flush()
    return len(unreadable)


def _batches(
    paths: Iterable[Path], unreadable: list[Path]
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yields consecutive images of the same size; appends unreadable files to a list."""
    batch: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        try:
            image = read_image(path)
        except DataError as error:
            terminal.fail(error)
            unreadable.append(path)
            continue
        if batch and (len(batch) == BATCH_SIZE or batch[0][1].shape != image.shape):
            yield [path for path, _ in batch], np.stack([image for _, image in batch])
            batch = []
        batch.append((path, image))
    if batch:
        yield [path for path, _ in batch], np.stack([image for _, image in batch])


def _opened_output(path: str | None) -> TextIO:
    """Opens the CSV file, or the terminal if there is none; both can write any file name."""
    # The terminal is opened by a copy of its descriptor, so closing the copy leaves it open.
    target: str | int = path if path else os.dup(sys.stdout.fileno())
    return open(target, "w", newline="", encoding="utf-8", errors="surrogateescape")


COMMAND = terminal.Command(
    "predict",
    main,
    flags=(
        location("model", None, "Required: folder of an exported SavedModel."),
        location("output", None, "CSV file to write.", shown_default="the terminal"),
    ),
    usage="PATH...",
    details="PATH is an image file or a folder with image files. The output is CSV with one line\n"
    "per image: path, class number, class name, probability.\n"
    "Exit code: 0 all files were classified, 1 some could not be read, 2 nothing was started.",
)
