"""What an export says about its answers: held-out scores, and the class distribution behind them.

It is the file `assets.extra/held_out.json` of the export, so `daso-tf predict` needs only that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daso_tf.data import SemiSupervisedData
from daso_tf.data.text import read_text
from daso_tf.settings import combinations
from daso_tf.settings.settings import Settings
from daso_tf.step.calibration import Calibrator, fit_calibrator

FILE = "assets.extra/held_out.json"
_DIGITS = 6  # of the probabilities in the file


class HeldOut(NamedTuple):
    """What is known about the answers of an export.

    Attributes:
        class_names: K names.
        labeled_counts: Labeled training images of each class.
        scores: For each class, the probabilities that the export has for it, of the validation
            images of this class, ascending; None without validation images.
        calibrator: Calibrates the probabilities of the export, for images with the class
            distribution below; None without validation images.
        class_distribution: float `(K,)`, summing to 1: what the calibrated probabilities are for.
            None where nothing says so.
    """

    class_names: tuple[str, ...]
    labeled_counts: list[int]
    scores: list[np.ndarray] | None
    calibrator: Calibrator | None
    class_distribution: np.ndarray | None

    def for_equal_shares(self) -> HeldOut:
        """Returns the same for answers that treat all classes alike."""
        count = len(self.class_names)
        return self._replace(class_distribution=np.full(count, 1 / count))

    def as_json(self) -> str:
        """Returns the content of the file."""
        calibrator, shares = self.calibrator, self.class_distribution
        content = {
            "version": 1,
            "class_names": list(self.class_names),
            "labeled_counts": self.labeled_counts,
            "class_distribution": None if shares is None else shares.tolist(),
            "calibrator": calibrator
            and {"temperature": calibrator.temperature, "bias": calibrator.bias.tolist()},
            "scores": None
            if self.scores is None
            else [[float(f"{p:.{_DIGITS}g}") for p in of.tolist()] for of in self.scores],
        }
        return json.dumps(content) + "\n"


def of_export(
    settings: Settings, data: SemiSupervisedData, validation: np.ndarray | None
) -> HeldOut:
    """Finds out what is known about the answers of a network as it is exported.

    With validation images, the answers are calibrated for them. Without them, the class
    distribution is that of the labeled images, unless the training counters their imbalance.

    Args:
        settings: Those of the run.
        data: Its data.
        validation: float `(N, K)`, the probabilities of the export for the validation images; None
            where there are none.
    """
    names, counts = tuple(data.class_names), data.labeled_counts.tolist()
    if validation is None or data.validation is None:
        return HeldOut(names, counts, None, None, answered_distribution(settings, counts))
    labels = data.validation.labels
    scores = [np.sort(validation[labels == k, k]) for k in range(data.num_classes)]
    logits = np.log(np.maximum(validation, np.finfo(np.float32).tiny))
    calibrator = fit_calibrator(logits, labels)
    return HeldOut(names, counts, scores, calibrator, calibrator(logits).mean(axis=0))


def read(directory: str) -> HeldOut | None:
    """Reads what an export says about its answers.

    Args:
        directory: The folder of a SavedModel.

    Returns:
        The content of its file; None where there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    path = Path(directory, FILE)
    if not path.is_file():
        return None
    try:
        content = json.loads(read_text(path))
        names, counts = tuple(map(str, content["class_names"])), content["labeled_counts"]
        scores, calibrator, shares = (
            content[name] for name in ("scores", "calibrator", "class_distribution")
        )
        found = HeldOut(
            names,
            list(map(int, counts)),
            scores and [np.array(of, np.float64) for of in scores],
            calibrator
            and Calibrator(
                float(calibrator["temperature"]), np.array(calibrator["bias"], np.float64)
            ),
            None if shares is None else np.array(shares, np.float64),
        )
        _check(found)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); export again") from error
    return found


def _check(found: HeldOut) -> None:
    numbers = {
        "labeled_counts": found.labeled_counts,
        "scores": found.scores,
        "bias": found.calibrator and found.calibrator.bias.tolist(),
        "class_distribution": found.class_distribution,
    }
    for name, of_classes in numbers.items():
        if of_classes is not None and len(of_classes) != len(found.class_names):
            raise ValueError(f"{name} is not for {len(found.class_names)} classes")
    if found.class_distribution is not None and not (found.class_distribution > 0).all():
        raise ValueError("class_distribution must be above 0 for every class")


def answered_distribution(settings: Settings, labeled_counts: list[int]) -> np.ndarray | None:
    """Returns the class distribution that a network answers for, by its training alone.

    Args:
        settings: Those of the run.
        labeled_counts: Labeled training images of each class.

    Returns:
        float `(K,)`, summing to 1; None where the training counters the imbalance, so that nothing
        says what it answers for.
    """
    adjusted = settings.test_logit_adjustment
    # What could be adjusted at test time has learned the distribution of the labeled images.
    if not adjusted and not combinations.can_add("test_logit_adjustment", settings):
        return None
    shares = np.array(labeled_counts, np.float64) ** (1 - adjusted)
    return shares / shares.sum()
