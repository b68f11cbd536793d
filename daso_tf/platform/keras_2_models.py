"""Loads `.keras` files of Keras 2.15 under Keras 3, which cannot read them by itself."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform.keras_versions import KERAS_3, optimizer_variables


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a learner like `keras.saving.load_model`, and also from files of Keras 2.15.

    Args:
        path: A `.keras` file.

    Returns:
        The learner. If it was compiled, it still is, with the state of its optimizer.

    Raises:
        ValueError: If the path is not a `.keras` file, or this Keras cannot read its version.
        OSError: If the file cannot be read.

    Example:

    >>> learner = load_model("learner.keras")  # doctest: +SKIP
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_unpacked(archive, path)
            version = json.loads(archive.read("metadata.json"))["keras_version"]
            config = json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
        of_keras_3 = int(version.split(".")[0]) >= 3
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is not a .keras file: {error}") from error
    if of_keras_3 and not KERAS_3:
        raise ValueError(
            f"it was written by Keras {version}, and Keras {keras.__version__} cannot read it. "
            f"Convert it to an export folder or a .weights.h5 file under Keras {version}. "
            "Checkpoints of a run can be read under both."
        )
    try:
        if of_keras_3 == KERAS_3:
            return keras.saving.load_model(path)
        learner = keras.saving.deserialize_keras_object(_translated(config))
    except TypeError as error:  # Keras raises it for an unknown class
        raise ValueError(str(error)) from error
    _load_weights(learner, weights)
    return learner


def _check_unpacked(archive: zipfile.ZipFile, path: str | os.PathLike) -> None:
    """Refuses a file that unpacks to far more than Keras packs into one of its size."""
    size = os.path.getsize(path)
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > 100 * size + 2**20:
        raise ValueError(f"it has {size:,} bytes and unpacks to {unpacked:,}")


def _translated(config: Any) -> Any:
    """Translates the configuration of a model, or of a part of it, to that of Keras 3."""
    if isinstance(config, list):
        return [_translated(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {key: _translated(value) for key, value in config.items()}
    arguments = config.get("config")
    if config.get("class_name") == "Functional":
        config |= {"module": "keras", "class_name": "Model", "registered_name": None}
    elif config.get("class_name") == "BatchNormalization":
        (arguments["axis"],) = arguments["axis"]
    elif config.get("class_name") == "LeakyReLU":
        arguments["negative_slope"] = arguments.pop("alpha")
    elif config.get("class_name") == "Policy":
        config |= {"module": "keras", "class_name": "DTypePolicy"}
    elif config.get("class_name") == "PiecewiseConstantDecay":
        arguments = {name: value for name, value in arguments.items() if value is not None}
        config["config"] = arguments
    elif isinstance(arguments, dict) and arguments.get("is_legacy_optimizer") is False:
        config["module"] = "keras.optimizers"
        for name in ("is_legacy_optimizer", "jit_compile"):
            arguments.pop(name, None)
    if "compile_config" in config:
        given = {name: value for name, value in config["compile_config"].items() if value}
        config["compile_config"] = given
    return config


def _load_weights(learner: keras.Model, weights: bytes) -> None:
    """Loads a weights file of Keras 2.15, or raises a ValueError if weights are missing in it."""
    for variable in learner.variables:
        if tf.as_dtype(variable.dtype).is_floating:  # a NaN that remains was not in the file
            variable.assign(np.full(variable.shape, np.nan))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder, "model.weights.h5")
        path.write_bytes(weights)
        # Keras warns about every place that it searches without finding weights.
        warnings.simplefilter("ignore")
        learner.load_weights(path)
        with h5py.File(path) as file:
            if learner.optimizer and "optimizer" in file:
                # Keras 3 skips them: its list includes the learning rate, that of Keras 2 does not.
                saved = file["optimizer/vars"]
                for position, variable in enumerate(optimizer_variables(learner.optimizer)):
                    variable.assign(saved[str(position)][()])
    missing = [v.path for v in learner.variables if np.isnan(np.asarray(v, np.float64)).any()]
    if missing:
        raise ValueError(f"it lacks the weights {', '.join(missing)}")
