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
from typing import Any, TextIO

import numpy as np
import tensorflow as tf

from daso_tf.commands import terminal
from daso_tf.data import DataError, read_image
from daso_tf.data.folders import files_below
from daso_tf.platform.disk import naming, open_file
from daso_tf.settings.flag import location
from daso_tf.settings.flags import MAX_MEGAPIXELS
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
        unreadable = classify(model, paths, output, settings.max_megapixels)
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
        ValueError: If there is no such SavedModel, or it is damaged or that of another program.
    """
    if not tf.saved_model.contains_saved_model(directory):
        raise ValueError(f"{directory!r} is not a SavedModel; give the folder of an export")
    try:
        for entry in files_below(directory):
            open_file(entry.path).close()  # TensorFlow would wait for a pipe
        loaded = tf.saved_model.load(directory)
        serve = loaded.signatures["serving_default"]
        _check_signature(serve)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(getattr(error, "message", error)).strip() or type(error).__name__
        raise ValueError(
            f"the SavedModel in {directory!r} cannot be used ({reason.splitlines()[0]}); give the "
            "folder of an export, or export again"
        ) from error
    return serve


def _check_signature(serve: Any) -> None:
    """Refuses a model with other inputs and outputs than `export` writes."""
    _, inputs = serve.structured_input_signature
    images = tf.TensorSpec([None, None, None, 3], tf.uint8)
    if list(inputs) != ["images"] or not inputs["images"].is_compatible_with(images):
        raise ValueError(f"its inputs are {', '.join(map(str, inputs.values()))}, not uint8 images")
    wanted = {"class_ids": (tf.int64, 1), "probabilities": (tf.float32, 2)}
    if "class_names" in serve.structured_outputs:
        wanted["class_names"] = (tf.string, 1)
    for name, (dtype, rank) in wanted.items():
        output = serve.structured_outputs.get(name)
        if output is None or output.dtype != dtype or output.shape.rank not in (rank, None):
            raise ValueError(f"it has no output {name} of type {dtype.name} and rank {rank}")


def image_paths(arguments: Iterable[str]) -> Iterator[Path]:
    """Yields the image files of a command line.

    Args:
        arguments: Paths of files and folders. A file is taken as it is. A folder stands for all
            visible files in it and in its subfolders, sorted by name.

    Raises:
        ValueError: If a path does not exist, or a folder cannot be listed.
    """
    for argument in map(Path, arguments):
        if not argument.exists():
            raise ValueError(f"there is no file or folder {str(argument)!r}")
        if argument.is_dir():
            yield from (Path(entry.path) for entry in files_below(argument))
        else:
            yield argument


def classify(
    model: Signature,
    paths: Iterable[Path],
    output: TextIO,
    max_megapixels: float = MAX_MEGAPIXELS.default,
) -> int:
    """Writes one line of CSV per readable image, and one line to stderr per unreadable file.

    Args:
        model: What `load_model` returns.
        paths: Image files.
        output: The text file to write to.
        max_megapixels: Largest number of pixels of an image, in millions.

    Returns:
        The number of files that cannot be read.
    """
    writer = csv.writer(output)
    writer.writerow(["path", "class_id", "class_name", "probability"])
    unreadable: list[Path] = []
    for batch_paths, images in _batches(paths, unreadable, max_megapixels):
        with naming(batch_paths[0]):
            answer = model(images=tf.constant(images))
        outputs = {name: value.numpy() for name, value in answer.items()}
        class_ids = outputs["class_ids"]
        names = outputs.get("class_names", [b""] * len(class_ids))
        probabilities = outputs["probabilities"].max(axis=1)
        for path, class_id, name, probability in zip(
            batch_paths, class_ids, names, probabilities, strict=True
        ):
            writer.writerow(
                [path, class_id, name.decode(errors="surrogateescape"), f"{probability:.4f}"]
            )
        output.flush()
    return len(unreadable)


def _batches(
    paths: Iterable[Path], unreadable: list[Path], max_megapixels: float
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yields consecutive images of the same size; appends unreadable files to a list."""
    batch: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        try:
            image = read_image(path, max_megapixels)
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
        MAX_MEGAPIXELS,
    ),
    usage="PATH...",
    details="A SavedModel is a program; use only one that you trust.\n"
    "PATH is an image file or a folder with image files. The output is CSV with one line\n"
    "per image: path, class number, class name, probability.\n"
    "Exit code: 0 all files were classified, 1 some could not be read, 2 nothing was started.",
)
