"""How many unlabeled images each class has: known, estimated, or as among the labeled images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from daso_tf.data.images import UNKNOWN
from daso_tf.data.semi_supervised import SemiSupervisedData
from daso_tf.data.text import read_text


def unlabeled_distribution(source: str, data: SemiSupervisedData) -> list[float]:
    """Returns how many unlabeled images each class has, in any scale.

    Args:
        source: "labeled" assumes the class distribution of the labeled images. "known" counts the
            true classes of the unlabeled images. Any other value is the path of a file, see
            `read`.
        data: The data.

    Returns:
        K numbers of at least 0.

    Raises:
        ValueError: If `source` is "known" and the class of an unlabeled image is not known, or if
            the file does not have exactly the classes of the data.
        OSError: If the file cannot be read.

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
            f"--unlabeled_distribution=known, but the class of {unknown} of the "
            f"{len(data.unlabeled)} unlabeled images is not known. Use "
            "--unlabeled_distribution=labeled, or a file written by "
            "`python -m daso_tf.estimate_distribution`."
        )
    return data.unlabeled_counts.astype(float).tolist()


def read(path: str | Path, class_names: Sequence[str]) -> list[float]:
    """Reads from a file how many unlabeled images each class has.

    Args:
        path: A JSON file with one object: class names and numbers of at least 0, such as
            `{"cat": 40.5, "dog": 3}`. `python -m daso_tf.estimate_distribution` writes one.
        class_names: K names, in the order of the classes.

    Returns:
        K numbers in the order of the classes.

    Raises:
        ValueError: If the file has other content or other classes.
        OSError: If the file cannot be read.
    """
    try:
        counts = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(counts, dict) or not all(_is_count(count) for count in counts.values()):
        raise ValueError(
            f'{path} must hold one number of at least 0 for each class, such as {{"cat": 40.5}}.'
        )
    if counts.keys() != set(class_names):
        differing = ", ".join(sorted(counts.keys() ^ set(class_names))[:4])
        raise ValueError(
            f"The classes in {path} are not those of the data; they differ in: {differing}."
        )
    return [float(counts[name]) for name in class_names]


def estimate_distribution(confusion: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Estimates how many images each class has from a classifier's predictions for them.

    A classifier confuses classes, so the sum of its predictions is a biased estimate. Images whose
    classes are known show how it confuses them, and a least-squares fit corrects for that.

    Args:
        confusion: float array of shape (K, K). Column k is the mean prediction for images of class
            k, measured on a validation set; each column sums to 1.
        predicted: float array of shape (K,): the sum of the predictions for the images to count.

    Returns:
        float64 array of shape (K,) of numbers of at least 0, with the same sum as `predicted`: the
        non-negative least-squares solution of `confusion @ counts = predicted`.

    Raises:
        ValueError: If no class distribution explains the predictions.

    Example:

    >>> confusion = np.array([[0.9, 0.2], [0.1, 0.8]])
    >>> predicted = confusion @ [30, 10]
    >>> daso_tf.data.estimate_distribution(confusion, predicted).round(6).tolist()
    [30.0, 10.0]

    Reference:
        Kim et al., "Distribution Aligning Refinery of Pseudo-label for Imbalanced Semi-supervised
        Learning" (DARP), NeurIPS 2020, appendix on the estimation of the class distribution of
        unlabeled data; Lipton, Wang and Smola, "Detecting and Correcting for Label Shift with
        Black Box Predictors", ICML 2018.
    """
    predicted = np.asarray(predicted, np.float64)
    counts, _ = nnls(np.asarray(confusion, np.float64), predicted)
    if not counts.sum() > 0:
        raise ValueError(
            f"No class distribution explains the predictions {predicted.tolist()}. Check that they "
            "are sums of probabilities."
        )
    return counts * predicted.sum() / counts.sum()


def _is_count(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")
