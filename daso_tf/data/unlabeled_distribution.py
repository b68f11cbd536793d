"""How many unlabeled images each class has: known, estimated, or as among the labeled images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daso_tf.data.images import UNKNOWN
from daso_tf.data.semi_supervised import SemiSupervisedData
from daso_tf.data.text import as_cell, read_text

ESTIMATE = "estimate"  # see `daso_tf.run.distribution_estimate`
# Largest total variation between the class distribution of held-out images and the estimate for
# them, with which an estimate for unlabeled images is used.
MOST_WRONG = 0.1
_TINY = np.finfo(np.float64).tiny


def unlabeled_distribution(source: str, data: SemiSupervisedData) -> list[float]:
    """Returns how many unlabeled images each class has, in any scale.

    Args:
        source: "labeled" assumes the class distribution of the labeled images. "estimate" starts
            with it. "known" counts the true classes of the unlabeled images. Any other value is the
            path of a file, see `read`.
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
    if source in ("labeled", ESTIMATE):
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


def read(path: str | Path, class_names: Sequence[str], of: str = "data") -> list[float]:
    """Reads from a file how many images each class has.

    Args:
        path: A JSON file with one object, class names and numbers of at least 0, such as
            `{"cat": 40.5, "dog": 3}`: `python -m daso_tf.estimate_distribution` writes one. Or a
            CSV file with a class and its number in each line; the first line may be
            `class,share`. Its name ends in `.csv`.
        class_names: K names, in the order of the classes.
        of: What has these classes, for the message where the file has others.

    Returns:
        K numbers in the order of the classes, in any scale.

    Raises:
        ValueError: If the file has other content or other classes.
        OSError: If the file cannot be read.
    """
    text = read_text(path)
    counts = _of_csv(path, text) if str(path).lower().endswith(".csv") else _of_json(path, text)
    # A table of this package has "'=name" where a spreadsheet would take "=name" for a formula.
    counts = {{as_cell(name): name for name in class_names}.get(k, k): v for k, v in counts.items()}
    if not all(_is_count(count) for count in counts.values()) or not any(counts.values()):
        raise ValueError(
            f"{path} must hold one number of at least 0 for each class, such as "
            '{"cat": 40.5}, and not only zeros.'
        )
    if counts.keys() != set(class_names):
        differing = ", ".join(sorted(counts.keys() ^ set(class_names))[:4])
        raise ValueError(
            f"The classes in {path} are not those of the {of}; they differ in: {differing}."
        )
    return [float(counts[name]) for name in class_names]


def _of_json(path: str | Path, text: str) -> dict[str, Any]:
    try:
        counts = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    return counts if isinstance(counts, dict) else {}


def _of_csv(path: str | Path, text: str) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[:2] == ["class", "share"]):
            continue
        try:
            name, count = cells
            share = float(count)
        except ValueError as error:
            raise ValueError(
                f"{path}: line {number} must be a class and a number, such as cat,0.25"
            ) from error
        if name in counts:
            raise ValueError(f"{path}: line {number} has the class {name!r} again")
        counts[name] = share
    return counts


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
    from scipy.optimize import nnls

    predicted = np.asarray(predicted, np.float64)
    counts, _ = nnls(np.asarray(confusion, np.float64), predicted)
    if not counts.sum() > 0:
        raise ValueError(
            f"No class distribution explains the predictions {predicted.tolist()}. Check that they "
            "are sums of probabilities."
        )
    return counts * predicted.sum() / counts.sum()


def em_shares(
    probabilities: np.ndarray,
    prior: np.ndarray,
    weights: np.ndarray | None = None,
    start: np.ndarray | None = None,
    added: float = 0.0,
    tolerance: float = 1e-5,
    most_iterations: int = 1000,
) -> np.ndarray:
    """Estimates class shares by expectation-maximization.

    It assumes that an image of a class looks the same wherever it is from, and that only the
    shares of the classes differ (label shift).

    Args:
        probabilities: float `(N, K)`, calibrated predictions; each row sums to 1.
        prior: float `(K,)` above 0, the class shares for which the predictions are calibrated.
        weights: float `(N,)` of at least 0, how often each image counts; by default once.
        start: float `(K,)`, the first estimate; by default `prior`.
        added: Images of each class, at least 0, that are added to the expected counts: above 0, no
            share becomes 0.
        tolerance: It stops after a change of all shares together that is smaller.
        most_iterations: Number of iterations after which it stops in any case.

    Returns:
        float64 `(K,)` of at least 0, summing to 1: the most likely shares.

    Raises:
        ValueError: If a share of `prior` is not above 0.

    Example:

    >>> sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    >>> em_shares(sure, prior=np.array([0.5, 0.5])).round(2).tolist()
    [0.71, 0.29]

    Reference:
        Saerens, Latinne and Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
        Probabilities: A Simple Procedure", Neural Computation 14, 2002, equation 2.9.
    """
    prior = np.asarray(prior, np.float64)
    if not (prior > 0).all():
        raise ValueError(f"prior must be above 0 for every class, not {prior.tolist()}.")
    ratios = np.asarray(probabilities, np.float64) / prior
    counts = np.ones(len(ratios)) if weights is None else np.asarray(weights, np.float64)
    shares = prior / prior.sum() if start is None else np.asarray(start, np.float64)
    for _ in range(most_iterations):
        mass = ratios @ shares  # of each image; row k of the E step is ratios * shares / mass
        new = shares * ((counts / np.maximum(mass, _TINY)) @ ratios) + added
        new /= new.sum()
        change, shares = np.abs(new - shares).sum(), new
        if change < tolerance:
            break
    return shares


def total_variation(shares: np.ndarray, others: np.ndarray) -> float:
    """Returns how far two class distributions are apart, in [0, 1].

    Example:

    >>> total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25]))
    0.25
    """
    return float(np.abs(shares - others).sum() / 2)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")
