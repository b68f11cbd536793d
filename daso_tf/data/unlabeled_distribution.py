"""How many unlabeled images of each class there are: known, estimated, or like the labeled ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daso_tf.data import UNKNOWN, SemiSupervisedData
from daso_tf.run.files import write_atomically


def unlabeled_distribution(source: str, data: SemiSupervisedData) -> list[float]:
    """Returns the unlabeled images of each class, in any scale.

    Args:
        source: "labeled" takes the classes' shares to be those of the labeled images, "known" the
            true ones; everything else is a file that `write` wrote.
        data: the data.

    Returns:
        K numbers.

    Raises:
        ValueError: the true ones are not known, or the file does not hold these classes.
        OSError: the file cannot be read.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(
    ...     images[:3], [0, 0, 1], images[3:], unlabeled_labels=[1, 1, 0])
    >>> unlabeled_distribution("labeled", data), unlabeled_distribution("known", data)
    ([2.0, 1.0], [1.0, 2.0])
    """
    if source == "labeled":
        return data.labeled_counts.astype(float).tolist()
    if source != "known":
        return read(source, data.class_names)
    if data.unlabeled_counts is None:
        unknown = np.sum(data.unlabeled.labels == UNKNOWN)
        raise ValueError(
            f"--unlabeled_distribution=known: of {unknown} of the {len(data.unlabeled)} unlabeled "
            "images the class is not known. Take labeled, or a file that "
            "`python -m daso_tf.estimate_distribution` writes."
        )
    return data.unlabeled_counts.astype(float).tolist()


def write(path: str | Path, class_names: Sequence[str], counts: Sequence[float]) -> None:
    """Writes the unlabeled images of each class as a JSON object of numbers by class name."""
    text = json.dumps(dict(zip(class_names, map(float, counts), strict=True)), indent=1) + "\n"
    write_atomically(Path(path), lambda file: file.write(text.encode()))


def read(path: str | Path, class_names: Sequence[str]) -> list[float]:
    """Reads the unlabeled images of each class.

    Args:
        path: a JSON file as `write` makes it; or anybody, with a number of at least 0 a class.
        class_names: K names, in the order of the classes.

    Returns:
        K numbers in the order of the classes.

    Raises:
        ValueError: the file holds something else, or other classes.
        OSError: it cannot be read.
    """
    try:
        counts = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(counts, dict) or not all(_is_count(count) for count in counts.values()):
        raise ValueError(
            f'{path} must hold one number of at least 0 for each class, such as {{"cat": 40.5}}.'
        )
    if counts.keys() != set(class_names):
        differing = ", ".join(sorted(counts.keys() ^ set(class_names))[:4])
        raise ValueError(f"{path} holds other classes than the data; they differ in: {differing}.")
    return [float(counts[name]) for name in class_names]


def _is_count(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")
