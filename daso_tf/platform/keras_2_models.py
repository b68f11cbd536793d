"""Reads `.keras` files under Keras 3 that Keras 2.15 wrote; Keras 3 alone does not."""

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
    """Loads a learner, as `keras.saving.load_model`, from files of Keras 2.15 too.

    Args:
        path: A `.keras` file.

    Returns:
        The learner, compiled if it was, with its optimizer's state.

    Raises:
        ValueError: If the file is none, or of a Keras that this one cannot read.
        OSError: If it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
            config = json.loads(archive.read("config.json"))
            weights = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no .keras file: {error}") from error
    of_keras_3 = int(version.split(".")[0]) >= 3
    if of_keras_3 and not KERAS_3:
        raise ValueError(
            f"it is of Keras {version}, which Keras {keras.__version__} cannot read. Convert it "
            "there to a folder or a .weights.h5 file; checkpoints of a run can be read here."
        )
    try:
        if of_keras_3 == KERAS_3:
            return keras.saving.load_model(path)
        learner = keras.saving.deserialize_keras_object(_translated(config))
    except TypeError as error:  # what Keras raises for a class that it does not know
        raise ValueError(str(error)) from error
    _load_weights(learner, weights)
    return learner


def _translated(config: Any) -> Any:
    """Returns the configuration of a model or a part of it as Keras 3 has it."""
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
    elif config.get("module") == "keras.optimizers.experimental":
        config["module"] = "keras.optimizers"
        for name in ("is_legacy_optimizer", "jit_compile"):
            arguments.pop(name, None)
    if "compile_config" in config:
        given = {name: value for name, value in config["compile_config"].items() if value}
        config["compile_config"] = given
    return config


def _load_weights(learner: keras.Model, weights: bytes) -> None:
    """Loads a weights file of Keras 2.15 whole, or raises a ValueError."""
    for variable in learner.variables:
        if tf.as_dtype(variable.dtype).is_floating:  # to see afterwards whether it was found
            variable.assign(np.full(variable.shape, np.nan))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder, "model.weights.h5")
        path.write_bytes(weights)
        # Keras warns of each of the places where it looks for weights in vain.
        warnings.simplefilter("ignore")
        learner.load_weights(path)
        with h5py.File(path) as file:
            if learner.optimizer and "optimizer" in file:
                # Keras passes them over: it counts the learning rate among them, Keras 2 does not.
                saved = file["optimizer/vars"]
                for position, variable in enumerate(optimizer_variables(learner.optimizer)):
                    variable.assign(saved[str(position)][()])
    missing = [v.path for v in learner.variables if np.isnan(np.asarray(v, np.float64)).any()]
    if missing:
        raise ValueError(f"these weights were not found in it: {', '.join(missing)}")
