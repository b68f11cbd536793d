"""The calibration of an export: fitted to images that it has not learned, and what it changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daso_tf.data import BankedData, SemiSupervisedData
from daso_tf.data.text import printable
from daso_tf.run.held_out import answered_distribution
from daso_tf.run.left_out import FOLDS, left_out
from daso_tf.run.prediction import Prediction
from daso_tf.settings.settings import Settings
from daso_tf.step.calibration import Calibrator, calibration, fit_calibrator

_IMAGES = {
    "validation": "validation images",
    "labeled": "labeled images that were left out in turn",
}
_TRAINED = ("run", "labels_only", "auto")  # answers that are networks of the same kind as the run


class Calibrated(NamedTuple):
    """A calibrator and what it changes.

    Attributes:
        calibrator: The `Calibrator`.
        images: Number of images that it was fitted to.
        fitted_to: Which they are: "validation", or "labeled" ones that were left out in turn.
        part: The images on which its effect is measured: "test", or else those.
        before: What `daso_tf.step.calibration.calibration` measures without it.
        after: The same with it.
    """

    calibrator: Calibrator
    images: int
    fitted_to: str
    part: str
    before: dict[str, Any]
    after: dict[str, Any]

    def line(self) -> str:
        """Returns what was changed in one line."""
        changes = ", ".join(
            f"{words} {self.before[name]:.3f} before, {self.after[name]:.3f} after"
            for words, name in (
                ("expected calibration error", "expected_calibration_error"),
                ("log loss", "log_loss"),
            )
        )
        return (
            f"calibrated on {self.images} {_IMAGES[self.fitted_to]}, temperature "
            f"{self.calibrator.temperature:.2f}; {self.part}: {changes}"
        )

    def as_json(self) -> dict[str, Any]:
        """Returns it for `results.json`."""
        return {
            "temperature": self.calibrator.temperature,
            "bias": self.calibrator.bias.tolist(),
            "fitted_to": self.fitted_to,
            "measured_on": self.part,
            "before": self.before,
            "after": self.after,
        }


def check_calibrates(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuses `--calibrate` where there are no images that the network has not learned.

    Args:
        settings: Those of the run.
        data: Its data.

    Raises:
        ValueError: If there are no validation images, and labeled ones cannot be left out in turn.
    """
    if settings.calibrate == "none" or data.validation is not None:
        return
    asked = f"--calibrate={settings.calibrate}"
    advice = "set some aside with --validation_size, or use data that has them"
    if not settings.freeze_encoder:
        raise ValueError(
            f"{asked} needs validation images, which the network has not learned: {advice}; or "
            "leave it at none."
        )
    if settings.answer not in _TRAINED or settings.finetune_steps:
        found = (
            f"--finetune_steps={settings.finetune_steps}"
            if settings.finetune_steps
            else f"--answer={settings.answer}"
        )
        raise ValueError(
            f"{asked} with {found} needs validation images: {advice}. Only networks on frozen "
            "features are trained again without some of the labeled images."
        )
    counts = data.labeled_counts
    if settings.calibrate == "vector" and counts.min() < 2:
        rare = data.class_names[int(counts.argmin())]
        raise ValueError(
            f"{asked} needs at least two labeled images of each class, one of which is left out, "
            f"but {printable(rare)} has one. Use --calibrate=temperature, or validation images: "
            f"{advice}."
        )
    if counts.max() < 2:  # the only image of a class is never left out
        raise ValueError(
            f"{asked} needs a class with at least two labeled images, one of which is left out, or "
            f"validation images: {advice}."
        )
    if counts.sum() - -(-counts.sum() // FOLDS) < settings.batch_size:
        raise ValueError(
            f"{asked} leaves out a fifth of the {counts.sum()} labeled images in turn; the others "
            f"are less than --batch_size={settings.batch_size}. Use a smaller one, or validation "
            f"images: {advice}."
        )


def calibrated(
    settings: Settings, data: SemiSupervisedData, predict: Prediction, trained_by: Settings
) -> Calibrated:
    """Fits the calibration of an export.

    It is fitted to the validation images. Without them, networks are trained on parts of the
    labeled images, and it is fitted to what they predict for the others.

    Args:
        settings: Those of the run; `--calibrate` is not none.
        data: Its data.
        predict: Predicts with the network that is exported.
        trained_by: The settings with which that was trained: those of the run, or of its twin.

    Returns:
        The calibrator, and its effect on the test images, or else on those that it was fitted to.
    """
    weights = None
    if data.validation is not None:
        fitted_to, labels = "validation", data.validation.labels
        known = predict(data.validation)
    else:
        assert isinstance(data, BankedData)  # see `check_calibrates`
        print(f"Training {FOLDS} times on parts of the labeled images, to calibrate.", flush=True)
        (known,), places = left_out([trained_by], data)
        fitted_to, labels = "labeled", data.labeled.labels[places]
        weights = _weights(settings, data, labels)
    calibrator = fit_calibrator(
        np.log(np.maximum(known, np.finfo(np.float32).tiny)),
        labels,
        with_bias=settings.calibrate == "vector",
        weights=weights,
    )
    part, plain = fitted_to, known
    if data.test is not None:
        part, labels, plain = "test", data.test.labels, predict(data.test)
    before, after = (
        calibration(labels, probabilities, data.labeled_counts)
        for probabilities in (plain, calibrator.of_probabilities(plain))
    )
    return Calibrated(calibrator, len(known), fitted_to, part, before, after)


def _weights(settings: Settings, data: SemiSupervisedData, labels: np.ndarray) -> np.ndarray:
    """Returns weights with which labeled images have the class distribution of the answers.

    Equal shares, where the training counters the imbalance and nothing says what it answers for.
    """
    counts = data.labeled_counts
    answered = answered_distribution(settings, counts.tolist())
    answered = np.full(len(counts), 1 / len(counts)) if answered is None else answered
    return (answered / counts)[labels]
