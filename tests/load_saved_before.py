"""Loads the learners of `saved_by_20a1ee4.py` as a user does, in a process of its own.

    python tests/load_saved_before.py OUTPUT.npz

For each `.keras` file, OUTPUT holds what the learner predicts, and what it predicts after one more
training step; or the error. Before the files are loaded, nothing but `daso_tf` is imported.
"""

import json
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np

import daso_tf  # registers the classes in the files

DATA = Path(__file__).parent / "data" / "saved_by_20a1ee4"
MAJOR = int(keras.__version__.split(".")[0])


def registered_names(config):
    """Yields the names of all of the library's registered classes within a configuration."""
    if isinstance(config, dict):
        if str(name := config.get("registered_name")).startswith("daso_tf>"):
            yield name
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from registered_names(part)


def unknown_names(path):
    """Returns the classes of a file that no import of the library has registered."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    names = set(registered_names(config))
    return sorted(name for name in names if keras.saving.get_registered_object(name) is None)


def answers_of(learner, recorded, name):
    """Returns what a learner predicts, and what it predicts after one more training step."""
    learner.run_eagerly = True  # a single step is not worth tracing a graph
    images = recorded[f"{name}/images"]
    before = learner.predict(images, verbose=0)
    inputs = [recorded["next_batch/labeled"], recorded["next_batch/unlabeled"]]
    if learner.needs_positions:
        inputs.append(recorded["next_batch/positions"])
    learner.train_on_batch(tuple(inputs), recorded["next_batch/labels"])
    return {"probabilities": before, "step_later": learner.predict(images, verbose=0)}


def main(output):
    """Loads the files of both versions of Keras; those of the installed one come first."""
    found = {}
    own = DATA / f"keras_{MAJOR}"
    for path in sorted(own.glob("*.keras")):
        found[f"{own.name}/{path.stem}/unknown"] = np.array(unknown_names(path), str)
    load = {own.name: keras.saving.load_model}
    for folder in (own, DATA / f"keras_{5 - MAJOR}"):
        if folder != own:
            from daso_tf.platform.keras_2_models import load_model

            load[folder.name] = load_model
        with np.load(folder / "answers.npz") as archive:
            recorded = dict(archive)
        for path in sorted(folder.glob("*.keras")):
            name = f"{folder.name}/{path.stem}"
            try:
                answers = answers_of(load[folder.name](path), recorded, path.stem)
            except Exception as error:  # the test shows it with the file that it is about
                answers = {"error": f"{type(error).__name__}: {error}"}
            found.update({f"{name}/{key}": value for key, value in answers.items()})
    np.savez(output, **found)


if __name__ == "__main__":
    assert daso_tf.__version__
    main(sys.argv[1])
