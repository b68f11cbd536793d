"""The calibration of an export: fitted on validation images, and what it changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daso_tf.data import SemiSupervisedData
from daso_tf.run.prediction import Prediction
from daso_tf.settings.settings import Settings
from daso_tf.step.calibration import Calibrator, calibration, fit_calibrator


class Calibrated(NamedTuple):
    """A calibrator and what it changes.

    Attributes:
        calibrator: The `Calibrator`.
        images: Number of validation images that it was fitted to.
        part: The images on which its effect is measured: "test", or else "validation".
        before: What `daso_tf.step.calibration.calibration` measures without it.
        after: The same with it.
    """

    calibrator: Calibrator
    images: int
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
            f"calibrated on {self.images} validation images, temperature "
            f"{self.calibrator.temperature:.2f}; {self.part}: {changes}"
        )

    def as_json(self) -> dict[str, Any]:
        """Returns it for `results.json`."""
        return {
            "temperature": self.calibrator.temperature,
            "bias": self.calibrator.bias.tolist(),
            "measured_on": self.part,
            "before": self.before,
            "after": self.after,
        }


def check_calibrates(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuses `--calibrate` without validation images.

    Args:
        settings: Those of the run.
        data: Its data.

    Raises:
        ValueError: If there are none.
    """
    if settings.calibrate != "none" and data.validation is None:
        raise ValueError(
            f"--calibrate={settings.calibrate} needs validation images, which the network has not "
            "learned: set some aside with --validation_size, or use data that has them; or leave "
            "it at none."
        )


def calibrated(settings: Settings, data: SemiSupervisedData, predict: Prediction) -> Calibrated:
    """Fits the calibration of an export.

    Args:
        settings: Those of the run; `--calibrate` is not none.
        data: Its data, with validation images.
        predict: Predicts with the network that is exported.

    Returns:
        The calibrator, and its effect on the test images, or else on the validation images.
    """
    assert data.validation is not None  # see `check_calibrates`
    known = predict(data.validation)
    calibrator = fit_calibrator(
        np.log(np.maximum(known, np.finfo(np.float32).tiny)),
        data.validation.labels,
        with_bias=settings.calibrate == "vector",
    )
    part, images = ("validation", data.validation) if data.test is None else ("test", data.test)
    plain = known if data.test is None else predict(images)
    before, after = (
        calibration(images.labels, probabilities, data.labeled_counts)
        for probabilities in (plain, calibrator.of_probabilities(plain))
    )
    return Calibrated(calibrator, len(data.validation), part, before, after)
