"""Classifies image files with an exported model.

    daso-tf predict --model=runs/digits_lt/export PATH...

The output is CSV with one line per image: path, class number, class name (empty where the model
has no names) and probability. `--top=3` adds the same of the second and third class,
`--coverage=0.95` a set of classes, and `--unknown` whether the image belongs to no class.
`--format=jsonl` writes one JSON object per line instead.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
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

from daso_tf.commands import adapted, terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.commands.served_model import ServedModel, open_model
from daso_tf.data import DataError, read_image
from daso_tf.data.folders import files_below
from daso_tf.data.memory import Budget
from daso_tf.data.sources.clutter import Clutter
from daso_tf.data.text import as_cell
from daso_tf.data.unlabeled_distribution import read as read_shares
from daso_tf.platform.disk import naming
from daso_tf.run.held_out import FILE, HeldOut
from daso_tf.settings.flag import expanded
from daso_tf.settings.flags import MAX_MEGAPIXELS
from daso_tf.settings.settings import Settings
from daso_tf.step.conformal import set_thresholds

BATCH_SIZE = 64
SAMPLE = 10_000  # pictures from which `--prior=estimate` estimates, as in a report
_BATCH_PIXELS = 2**22  # of all images of a batch together, unless it is one image
_THREADS = min(os.cpu_count() or 1, 8)  # each holds a decoded image
# Resizing takes some 28 bytes per pixel. All threads together resize so many pixels at a time.
_resizing = Budget(2**24)

# A class number, its name (None without names) and its probability, the most probable first.
Ranking = list[tuple[int, str | None, float]]
Outputs = dict[str, np.ndarray]


class Answer(NamedTuple):
    """What is written about an image.

    Attributes:
        ranking: Its most probable classes.
        class_set: The classes, by name or else by number, of its `--coverage` set; None without.
        unknown: Its unknown score, and whether it belongs to no class; None from a model that does
            not tell.
    """

    ranking: Ranking
    class_set: list[str] | None
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
    of_export = adapted.of_export(settings)
    shares = None
    if of_export is not None and settings.prior not in (None, adapted.ESTIMATE):
        shares = np.array(read_shares(settings.prior, of_export.class_names, "model"))
        shares /= shares.sum()
    model = open_model(settings.model)
    if settings.top > model.num_classes:
        return terminal.fail(f"--top={settings.top}, but the model has {model.num_classes} classes")
    if settings.unknown and not model.tells_unknown:
        return terminal.fail(
            f"--unknown: {settings.model!r} does not tell images of no class; export a run that "
            "was trained with --open_set"
        )
    if of_export is not None:
        model = _adapted(model, of_export, settings, shares, paths)
    output = _opened_output(settings.output)
    with naming(settings.output or "standard output"), output:
        write = _FORMATS[settings.format](output, settings)
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


def _adapted(
    model: ServedModel,
    of_export: HeldOut,
    settings: Settings,
    shares: np.ndarray | None,
    paths: Sequence[Path],
) -> ServedModel:
    """Returns the model with the answers that `--coverage` and `--prior` ask for.

    What is promised, and for which class distribution it answers, is said on stderr.
    """
    if len(of_export.class_names) != model.num_classes:
        raise ValueError(
            f"{settings.model!r} has {model.num_classes} classes and {FILE} in it "
            f"{len(of_export.class_names)}; export again"
        )
    plain = dataclasses.replace(model, class_names=of_export.class_names)
    model = plain
    if settings.coverage is not None:
        assert of_export.scores is not None
        thresholds = set_thresholds(of_export.scores, of_export.labeled_counts, settings.coverage)
        for line in adapted.promises(thresholds, of_export):
            terminal.fail(line)
        model = adapted.with_sets(model, thresholds)
    if settings.prior is None:
        return model
    if shares is None:
        # As many as a report uses, evenly spread. Unreadable files are reported later, once.
        sample = paths[:: -(-len(paths) // SAMPLE)]
        read = predicted(plain, sample, settings.max_megapixels, report=lambda error: None)
        answers = (outputs for _, outputs in read if outputs is not None)
        shares = adapted.estimated_shares(of_export, answers)
        terminal.fail(f"estimated: {adapted.shares_line(shares, of_export.class_names)}")
    assert of_export.class_distribution is not None
    assumed = "" if of_export.calibrator else ", by the labeled pictures: none are for validation"
    before = adapted.shares_line(of_export.class_distribution, of_export.class_names)
    terminal.fail(f"the model answers for: {before}{assumed}")
    return adapted.for_distribution(model, of_export, shares)


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
        An iterator over pairs: some paths, and for each of them its `Answer`, or None if the file
        cannot be read.
    """
    for batch, outputs in predicted(model, paths, max_megapixels):
        if outputs is None:
            yield batch, [None]
        else:
            places = range(len(batch))
            yield batch, [_answer(model, outputs, place, top) for place in places]


def predicted(
    model: ServedModel,
    paths: Iterable[Path],
    max_megapixels: float,
    report: Callable[[DataError], object] = terminal.fail,
) -> Iterator[tuple[list[Path], Outputs | None]]:
    """Yields files in order, in batches, with the outputs of the model.

    Args:
        model: The model.
        paths: Image files.
        max_megapixels: Largest number of pixels of an image, in millions.
        report: Is told why a file cannot be read.

    Returns:
        An iterator over pairs: some paths, and the outputs for them by name; or a path and None if
        the file cannot be read.
    """

    def asked(batch: list[tuple[Path, np.ndarray]]) -> tuple[list[Path], Outputs]:
        of_batch, images = zip(*batch, strict=True)
        with naming(of_batch[0]):
            answer = model.serve(images=tf.constant(np.stack(images)))
        return list(of_batch), {name: value.numpy() for name, value in answer.items()}

    batch: list[tuple[Path, np.ndarray]] = []
    for path, image in _images(model, paths, max_megapixels, report):
        if image is None:
            yield [path], None
            continue
        shape = image.shape
        most = max(1, min(BATCH_SIZE, _BATCH_PIXELS // (shape[0] * shape[1])))
        if batch and (len(batch) >= most or batch[0][1].shape != shape):
            yield asked(batch)
            batch = []
        batch.append((path, image))
    if batch:
        yield asked(batch)


def _answer(model: ServedModel, outputs: Outputs, place: int, top: int) -> Answer:
    """Returns what is written about one image of a batch."""
    of_image = {name: values[place] for name, values in outputs.items()}
    class_set = unknown = None
    if adapted.CLASS_SETS in of_image:
        classes = np.flatnonzero(of_image[adapted.CLASS_SETS]).tolist()
        names = model.class_names
        class_set = [str(k) if names is None else names[k] for k in classes]
    if model.tells_unknown:
        unknown = (float(of_image["unknown_score"]), bool(of_image["unknown"]))
    probabilities, name = of_image["probabilities"], of_image.get("class_names")
    return Answer(_ranking(probabilities, top, model.class_names, name), class_set, unknown)


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
    model: ServedModel,
    paths: Iterable[Path],
    max_megapixels: float,
    report: Callable[[DataError], object],
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
                yield _taken(*reading.popleft(), report)
        while reading:
            yield _taken(*reading.popleft(), report)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(
    path: Path, image: Future[np.ndarray], report: Callable[[DataError], object]
) -> tuple[Path, np.ndarray | None]:
    try:
        return path, image.result()
    except DataError as error:
        report(error)
        return path, None


def _csv_writer(output: TextIO, settings: Settings) -> Writer:
    writer = csv.writer(output)
    columns = ["class_id", "class_name", "probability"]
    more = [f"{column}_{rank}" for rank in range(2, settings.top + 1) for column in columns]
    sets = [] if settings.coverage is None else ["class_set"]
    unknown = _UNKNOWN if settings.unknown else ()
    writer.writerow(["path", *columns, *more, *sets, *unknown])

    def write(path: Path, answer: Answer) -> None:
        row = [as_cell(str(path))]
        for class_id, name, probability in answer.ranking:
            row += [str(class_id), as_cell(name or ""), f"{probability:.4f}"]
        if answer.class_set is not None:
            row.append(as_cell("|".join(answer.class_set)))
        if settings.unknown and answer.unknown is not None:
            score, is_unknown = answer.unknown
            row += [f"{score:.4f}", "yes" if is_unknown else "no"]
        writer.writerow(row)

    return write


def _jsonl_writer(output: TextIO, settings: Settings) -> Writer:
    def write(path: Path, answer: Answer) -> None:
        keys = ("class_id", "class_name", "probability")
        line: dict[str, Any] = {
            "path": str(path),
            "classes": [dict(zip(keys, entry, strict=True)) for entry in answer.ranking],
        }
        if answer.class_set is not None:
            line["class_set"] = answer.class_set
        if settings.unknown and answer.unknown is not None:
            line |= dict(zip(_UNKNOWN, answer.unknown, strict=True))
        output.write(json.dumps(line) + "\n")

    return write


_UNKNOWN = ("unknown_score", "unknown")
_FORMATS: dict[str, Callable[[TextIO, Settings], Writer]] = {
    "csv": _csv_writer,
    "jsonl": _jsonl_writer,
}


def _opened_output(path: str | None) -> TextIO:
    """Opens the file, or the terminal if there is none; both can write any file name."""
    # The terminal is opened by a copy of its descriptor, so closing the copy leaves it open.
    target: str | int = path if path else os.dup(sys.stdout.fileno())
    return open(target, "w", newline="", encoding="utf-8", errors="surrogateescape")


COMMAND = COMMANDS["predict"]
