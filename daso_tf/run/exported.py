"""The export of a run: of which step and settings it is, so that it is never an old one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from daso_tf.learners import Learner
from daso_tf.open_set import OpenSet
from daso_tf.run import held_out
from daso_tf.run.held_out import HeldOut
from daso_tf.settings.settings import Settings
from daso_tf.step.calibration import Calibrator
from daso_tf.step.export import write_saved_model

# TensorFlow leaves the files of this folder of a SavedModel alone.
RECORD = "assets.extra/daso_tf.json"
# The formats of an export, and the end of the name where it is one file.
FILES = {"litert": ".tflite", "onnx": ".onnx"}
FORMATS = ("saved_model", *FILES)
_SETTINGS = ("test_logit_adjustment", "mixed_precision")  # they may change in a finished run


def export(
    learner: Learner,
    settings: Settings,
    directory: str | Path,
    card: str,
    known: HeldOut,
    calibrator: Calibrator | None = None,
) -> bool:
    """Exports a learner, unless the folder has this export already.

    The record is part of the export, which is complete or absent. So it is right even if the
    process is killed, or if another run exports to the same folder.

    Args:
        learner: The learner, with the weights to export.
        settings: Those of the run.
        directory: Folder of the SavedModel.
        card: The model card, which becomes `MODEL.md` in it.
        known: What is known about its answers.
        calibrator: Corrects the probabilities; None where `--calibrate` is none.

    Returns:
        Whether it was written.

    Raises:
        OSError: If it cannot be written.
    """
    record = _record_of(learner, settings, known, calibrator)
    if _read_record(Path(directory)) == record:
        return False
    files = {
        RECORD: json.dumps(record, indent=1) + "\n",
        "MODEL.md": card,
        held_out.FILE: known.as_json(),
    }
    write_saved_model(
        learner,
        directory,
        learner.network.resolution,
        learner.class_names,
        {path: text.encode() for path, text in files.items()},
        **({} if calibrator is None else {"calibrator": calibrator}),
    )
    return True


def _record_of(
    learner: Learner, settings: Settings, known: HeldOut, calibrator: Calibrator | None
) -> dict[str, Any]:
    """Returns what the answers of a learner depend on."""
    digest = hashlib.sha256()
    for weight in learner.ema_network_weights:
        digest.update(np.ascontiguousarray(weight.numpy()).data)
    return {
        "version": 1,
        "step": int(learner.step.numpy()),
        **{name: settings[name] for name in _SETTINGS},
        "class_names": list(learner.class_names or ()),
        "weights": digest.hexdigest(),
        "held_out": None if known.scores is None else list(map(len, known.scores)),
        **({} if calibrator is None else {"calibrator": _rounded(calibrator)}),
        **({} if learner.open_set is None else {"open_set": _of_open_set(learner.open_set)}),
    }


def _rounded(calibrator: Calibrator) -> list[float]:
    """Returns the numbers of a calibrator without what another device computes differently."""
    return [round(float(number), 4) for number in (calibrator.temperature, *calibrator.bias)]


def _of_open_set(open_set: OpenSet) -> list[Any]:
    limit = float(tf.convert_to_tensor(open_set.limit))
    return [type(open_set).__name__, float(f"{limit:.4g}")]


def _read_record(directory: Path) -> Any:
    """Returns the record of an export; None where there is none or it cannot be read."""
    if not (directory / "saved_model.pb").is_file():
        return None
    try:
        return json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
