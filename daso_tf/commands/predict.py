"""Classifies image files: `python -m daso_tf.predict --model=runs/digits_lt/export PATH...`.

Writes CSV with a line an image: path, class number, class name (empty where the model has none)
and probability. Exit code: 0 every file was classified, 1 some could not be read, 2 nothing could
be begun.
"""

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import tensorflow as tf
from absl import flags

from daso_tf.commands import terminal
from daso_tf.data import DataError, read_image

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Folder of an exported SavedModel.")
flags.DEFINE_string("output", None, "CSV file to write; without it, the terminal.")

BATCH_SIZE = 64


def main(argv: list[str]) -> int:
    """Classifies the files of a command line.

    Args:
        argv: the program's name, then paths of image files and of folders of them.

    Returns:
        The exit code.
    """
    if not FLAGS.model or len(argv) < 2:
        return terminal.fail("say which model and which images: --model=DIR PATH...")
    try:
        paths = list(image_paths(argv[1:]))
        model = load_model(FLAGS.model)
        with _opened_output(FLAGS.output) as output:
            unreadable = classify(model, paths, output)
    except (ValueError, OSError) as error:
        return terminal.fail(error)
    if unreadable:
        return terminal.fail(f"{unreadable} of {len(paths)} files left out", code=1)
    return 0


def load_model(directory: str):
    """Loads the signature of a SavedModel that `export` wrote.

    Args:
        directory: the folder of the SavedModel.

    Returns:
        A function of uint8 images `(batch, height, width, 3)`; see `daso_tf.export`.

    Raises:
        ValueError: there is no such SavedModel.
    """
    if not tf.saved_model.contains_saved_model(directory):
        raise ValueError(f"{directory!r} is no SavedModel; give the folder of an export")
    loaded = tf.saved_model.load(directory)
    if "serving_default" not in loaded.signatures:
        raise ValueError(f"the SavedModel in {directory!r} has no signature serving_default")
    return loaded.signatures["serving_default"]


def image_paths(arguments: Iterable[str]) -> Iterator[Path]:
    """Yields files as they are and, of folders, every visible file below, sorted by name.

    Args:
        arguments: paths of files and folders.

    Raises:
        ValueError: one of them is not there.
    """
    for argument in map(Path, arguments):
        if not argument.exists():
            raise ValueError(f"there is no file or folder {str(argument)!r}")
        if not argument.is_dir():
            yield argument
        for folder, folders, files in os.walk(argument):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def classify(model, paths: Iterable[Path], output: TextIO) -> int:
    """Writes a line of CSV for every image that can be read, a line to stderr for every other.

    Args:
        model: what `load_model` returns.
        paths: image files.
        output: text file to write to.

    Returns:
        The number of files that could not be read.
    """
    writer = csv.writer(output)
    writer.writerow(["path", "class_id", "class_name", "probability"])
    unreadable = []
    for batch_paths, images in _batches(paths, unreadable):
        answer = {name: value.numpy() for name, value in model(images=tf.constant(images)).items()}
        class_ids = answer["class_ids"]
        names = answer.get("class_names", [b""] * len(class_ids))
        shares = answer["probabilities"].max(axis=1)
        for path, class_id, name, share in zip(batch_paths, class_ids, names, shares, strict=True):
            writer.writerow([path, class_id, name.decode(), f"{share:.4f}"])
        output.flush()
    return len(unreadable)


def _batches(paths, unreadable) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yields consecutive images of one size together; appends files it cannot read to a list."""
    batch = []
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


def _opened_output(path):
    """The CSV file or the terminal, able to write any file name."""
    # A descriptor of its own, so that closing it leaves the terminal open.
    target = path if path else os.dup(sys.stdout.fileno())
    return open(target, "w", newline="", encoding="utf-8", errors="surrogateescape")
