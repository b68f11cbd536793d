"""The evaluations of a training run, in one JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from daso_tf.balance.logit_adjustment import adjusted
from daso_tf.platform.disk import open_file
from daso_tf.platform.files import write_atomically
from daso_tf.step.calibration import calibration

MEDIAN_OVER = 20  # the paper reports the median of the last 20 evaluations (section 4.1)


def scores(
    labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray, num_classes: int
) -> dict[str, Any]:
    """Computes accuracies and the recall of each class.

    Args:
        labels: int `(N,)`, true classes in 0..K-1.
        predictions: int `(N,)`, predicted classes in 0..K-1.
        num_classes: K.

    Returns:
        `accuracy` and `balanced_accuracy` (the mean recall of the classes that have images) in
        [0, 1], and `recall`, a list of K numbers in [0, 1], nan for a class without images.

    Example:

    >>> scores([0, 0, 0, 1], [0, 0, 1, 1], num_classes=2)["balanced_accuracy"]
    0.8333333333333333
    """
    confusion = confusion_matrix(labels, predictions, labels=range(num_classes))
    images = confusion.sum(axis=1)
    recall = np.where(images > 0, confusion.diagonal() / np.maximum(images, 1), np.nan)
    return {
        "accuracy": float(confusion.trace() / images.sum()),
        "balanced_accuracy": float(np.nanmean(recall)),
        "recall": recall.tolist(),
    }


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    labeled_counts: Sequence[int],
    test_logit_adjustment: float = 0.0,
    answered_log_prior: np.ndarray | None = None,
) -> dict[str, Any]:
    """Scores a network's probabilities without and with logit adjustment at test time.

    Args:
        labels: int `(N,)`, true classes in 0..K-1.
        probabilities: float `(N, K)`.
        labeled_counts: Labeled training images of each class, K numbers, each at least 1.
        test_logit_adjustment: Strength of the adjustment that the probabilities contain already.
        answered_log_prior: float `(K,)`, what the adjusted logits contain in addition, if they are
            for another class distribution than the uniform one.

    Returns:
        The `scores`, as `calibration` what `daso_tf.step.calibration.calibration` measures, and as
        `logit_adjusted` the scores with logit adjustment of strength 1.

    Reference:
        Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 9.
    """
    num_classes = len(labeled_counts)
    log_probabilities = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    prior = np.zeros(num_classes) if answered_log_prior is None else answered_log_prior
    # Logit adjustment in training is not taken back: the network is trained for it.
    of_test = prior if test_logit_adjustment else np.zeros(num_classes)
    plain = adjusted(log_probabilities - of_test, labeled_counts, -test_logit_adjustment)
    balanced = adjusted(plain, labeled_counts) + of_test
    return {
        **scores(labels, np.argmax(plain, axis=1), num_classes),
        "calibration": calibration(labels, softmax(plain, axis=1), labeled_counts),
        "logit_adjusted": scores(labels, np.argmax(balanced, axis=1), num_classes),
    }


class Results:
    """The evaluations of a run and a summary of its data, in a JSON file.

    Args:
        path: The file; read if it exists, and rewritten as a whole by `add`.
        class_names: K names.
        labeled_counts: Labeled images of each class.
        unlabeled_counts: Unlabeled images of each class; None where they are not known.
        data: A fingerprint of what is evaluated; None where it is not known.

    Attributes:
        evaluations: The evaluations, in the order of their steps.
        exported: The scores of the exported model, with its `step` and `test_logit_adjustment`;
            None until there is one.
        comparison: What unlabeled images changed, of a run on a feature bank; None until it is
            known. See `daso_tf.run.comparison`.
        class_shares: The estimated shares of the classes among the unlabeled images, with their
            `step`; None until a report has estimated them.

    Raises:
        ValueError: If the file exists but contains something else.
    """

    def __init__(
        self,
        path: str | Path,
        class_names: Iterable[str],
        labeled_counts: np.ndarray,
        unlabeled_counts: np.ndarray | None,
        data: str | None = None,
    ):
        self.path = Path(path)
        self.class_names = list(class_names)
        self.labeled_counts = np.asarray(labeled_counts).tolist()
        self.unlabeled_counts = (
            None if unlabeled_counts is None else np.asarray(unlabeled_counts).tolist()
        )
        self.data = self._data_there = data
        self.evaluations: list[dict[str, Any]] = []
        self.exported: dict[str, Any] | None = None
        self.comparison: dict[str, Any] | None = None
        self.class_shares: dict[str, Any] | None = None
        if self.path.exists():
            there = _read(self.path, len(self.class_names))
            self.evaluations, self._data_there = there.evaluations, there.data
            self.exported, self.class_shares = there.exported, there.class_shares
            self.comparison = there.comparison

    def add(self, evaluation: dict[str, Any], write: bool = True) -> None:
        """Appends an evaluation, a nested dictionary with a `step`, and writes the file.

        Args:
            evaluation: The evaluation.
            write: Whether this process writes the file; other workers only remember it.
        """
        self.evaluations.append(_nan_to_none(evaluation))
        self.comparison = None  # it was made before
        if write:
            self.write()

    def at(self, step: int) -> dict[str, Any] | None:
        """Returns the evaluation of a step; None where there is none."""
        return next((entry for entry in self.evaluations if entry["step"] == step), None)

    def best_step(self, until: float = math.inf) -> int | None:
        """Returns the step with the best balanced accuracy on the validation images.

        Args:
            until: The last step that counts.

        Returns:
            The earliest of the best steps; None where no validation images were evaluated.
        """
        evaluated = [entry for entry in self.evaluations if entry.get("validation")]
        evaluated = [entry for entry in evaluated if entry["step"] <= until]
        if not evaluated:
            return None
        return max(evaluated, key=lambda entry: entry["validation"]["balanced_accuracy"])["step"]

    def without_progress(self) -> int:
        """Returns how many evaluations there are after that of the best step."""
        best = self.best_step()
        return 0 if best is None else sum(entry["step"] > best for entry in self.evaluations)

    def set_exported(self, exported: dict[str, Any]) -> None:
        """Records the scores of the exported model, and writes the file."""
        self.exported = _nan_to_none(exported)
        self.write()

    def set_comparison(self, comparison: dict[str, Any]) -> None:
        """Records what unlabeled images changed; `set_exported` writes it."""
        self.comparison = _nan_to_none(comparison)

    def set_class_shares(self, class_shares: dict[str, Any]) -> None:
        """Records the estimated shares of the classes among the unlabeled images, and writes."""
        self.class_shares = _nan_to_none(class_shares)
        self.write()

    def forget_after(self, step: int) -> None:
        """Removes the evaluations after a step, which a continued run makes again.

        Raises:
            ValueError: If evaluations of other data remain.
        """
        self.evaluations = [entry for entry in self.evaluations if entry["step"] <= step]
        if self.exported and self.exported["step"] > step:
            self.exported = None
        if self.class_shares and self.class_shares["step"] > step:
            self.class_shares = None
        if self.evaluations and self._data_there and self.data and self._data_there != self.data:
            raise ValueError(
                f"{self.path} has evaluations of other data: other classes, validation or test "
                "images. Give the same data, or remove the file to continue without them."
            )

    def medians(self) -> dict[str, Any]:
        """Returns the medians of the last 20 evaluations, such as `["test"]["accuracy"]`."""
        last = self.evaluations[-MEDIAN_OVER:]
        return {
            part: {
                **_median_scores(scores),
                "logit_adjusted": _median_scores([entry["logit_adjusted"] for entry in scores]),
            }
            for part in ("test", "validation")
            # A run may have had no such images at first.
            if (scores := [entry[part] for entry in last if entry.get(part)])
        }

    def write(self) -> None:
        """Writes the file; a reader finds the old or the new file, never a part of one."""
        summary = {
            "data": self.data,
            "class_names": self.class_names,
            "labeled_counts": self.labeled_counts,
            "unlabeled_counts": self.unlabeled_counts,
            f"median_of_last_{MEDIAN_OVER}": self.medians(),
            "exported": self.exported,
            "class_shares": self.class_shares,
        }
        if self.comparison is not None:
            summary["comparison"] = self.comparison
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in summary.items()]
        evaluations = ",\n".join(json.dumps(entry) for entry in self.evaluations)
        text = "{" + ",\n".join([*lines, f'"evaluations": [\n{evaluations}\n]']) + "}\n"
        write_atomically(self.path, lambda file: file.write(text.encode()))


class _Content(NamedTuple):
    """What is kept of a file that exists; version 0.1 wrote the evaluations alone."""

    evaluations: list[dict[str, Any]]
    data: str | None
    exported: dict[str, Any] | None
    comparison: dict[str, Any] | None
    class_shares: dict[str, Any] | None


def _read(path: Path, num_classes: int) -> _Content:
    try:
        with open_file(path) as file:
            content = json.loads(file.read())
        evaluations, data = content["evaluations"], content.get("data")
        if not isinstance(evaluations, list):
            raise TypeError("evaluations is not a list")
        for evaluation in evaluations:
            _check_evaluation(evaluation, num_classes)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is damaged ({reason}); remove it to continue without it"
        ) from error
    comparison = content.get("comparison")
    return _Content(
        evaluations,
        data if isinstance(data, str) else None,
        _with_step(content.get("exported")),
        comparison if isinstance(comparison, dict) else None,
        _with_step(content.get("class_shares")),
    )


def _with_step(kept: Any) -> dict[str, Any] | None:
    """Returns what is said of a step as it is; None where it says nothing of one."""
    return kept if isinstance(kept, dict) and type(kept.get("step")) is int else None


def _check_evaluation(evaluation: Any, num_classes: int) -> None:
    """Refuses what table and picture could not show."""
    step = evaluation["step"]
    if type(step) is not int or step < 0:
        raise TypeError(f"{step!r} is not a step")
    lists = []
    for part in ("test", "validation"):
        if part in evaluation:
            for scores in (evaluation[part], evaluation[part]["logit_adjusted"]):
                for name in ("accuracy", "balanced_accuracy"):
                    _check_number(scores[name])
                lists.append(scores["recall"])
    for shares in evaluation["pseudo_labels"].values():
        lists += [shares["recall"], shares["precision"]]
    for shares in lists:
        if not isinstance(shares, list) or len(shares) != num_classes:
            raise TypeError(f"{str(shares)[:40]} is not a list of {num_classes} numbers")
        for share in shares:
            if share is not None:  # as for a class without images
                _check_number(share)


def _check_number(share: Any) -> None:
    if not isinstance(share, (int, float)) or not math.isfinite(share):
        raise TypeError(f"{str(share)[:40]!r} is not a number")


def _median_scores(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: float(np.median([entry[name] for entry in entries]))
        for name in ("accuracy", "balanced_accuracy")
    }


def _nan_to_none(value: Any) -> Any:
    """Returns a value with None instead of nan, which JSON does not have, recursively."""
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
