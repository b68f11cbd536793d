"""Whatever commit 20a1ee4 saved still loads; `saved_by_20a1ee4.py` wrote the files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import parsed, run_train
from load_saved_before import DATA, MAJOR, registered_names

import daso_tf
from daso_tf.data.unlabeled_distribution import read
from daso_tf.run.checkpoints import Checkpoints

TESTS = Path(__file__).parent
FOLDERS = sorted(DATA.glob("keras_*"))
LEARNERS = [path.relative_to(DATA).with_suffix("") for path in sorted(DATA.glob("keras_*/*.keras"))]
OWN_LEARNERS = [name for name in LEARNERS if name.parts[0] == f"keras_{MAJOR}"]
# The other Keras cannot restore all checkpoints: it keeps other variables of some optimizers.
RUNS = sorted((DATA / f"keras_{MAJOR}" / "runs").iterdir())
FLAG_FILES = sorted([*DATA.glob("keras_*/runs/*/flags.cfg"), *DATA.glob("flags/*.cfg")])

# What that commit could not load either: these files of Keras 2.15, under Keras 3.
ONLY_KERAS_2 = {
    "mixmatch": "Could not locate class 'LAMB'",  # of TensorFlow Addons
    "remixmatch": "Layer 'ema_rotation_head' expected 2 variables",
    "remixmatch_abc": "Layer 'ema_rotation_head' expected 2 variables",
    "supervised_lookahead": "Could not locate class 'Lookahead'",  # of TensorFlow Addons
}
# Their steps compute something else since then, on purpose.
CHANGED = {
    "daso_batch_norm",  # its warm-up
    "fixmatch_adsh_float16",
    "fixmatch_cossl_softmatch",
    "fixmatch_saw_microbatches",
    "mixmatch",  # its warm-up
    "supervised",  # its warm-up
}
# What is computed differently in a run of version 0.1.
DIFFERS = {
    "daso": "the warm-up starts at learning rate 0",
    "remixmatch_darp": "ReMixMatch maps weak and strong views in separate batches",
}


def refusal(name):
    """What the error says of a file that the installed Keras cannot read; None if it can."""
    if MAJOR == 2 and name.parts[0] == "keras_3":
        return "Keras 2.15.0 cannot read"
    return ONLY_KERAS_2.get(name.name) if name.parts[0] != f"keras_{MAJOR}" else None


def recorded(folder, name):
    """What the library of that commit answered, by key."""
    prefix = f"{name}/"
    with np.load(folder / "answers.npz") as archive:
        keys = [key for key in archive.files if key.startswith(prefix)]
        return {key.removeprefix(prefix): archive[key] for key in keys}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What the learners answer now, from a process that imports `daso_tf` and nothing else."""
    output = tmp_path_factory.mktemp("loaded") / "answers.npz"
    process = subprocess.run(
        [sys.executable, TESTS / "load_saved_before.py", output],
        cwd=TESTS.parent,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    with np.load(output) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def learner():
    """The DASO learner that the installed Keras saved."""
    return keras.saving.load_model(DATA / f"keras_{MAJOR}" / "daso_batch_norm.keras")


def test_all_is_there():
    assert len(FOLDERS) == 2
    assert len(LEARNERS) == 15 + 16  # Keras 2.15 also has TensorFlow Addons' Lookahead
    assert len(RUNS) == (2 if MAJOR >= 3 else 1)
    assert len(FLAG_FILES) == 3 + 7


@pytest.mark.parametrize("name", OWN_LEARNERS, ids=str)
def test_import_registers_every_class_in_a_learner(name, loaded):
    assert loaded[f"{name}/unknown"].tolist() == []


def test_a_class_that_is_not_registered_would_be_found():
    schedule = {"registered_name": "daso_tf>WarmUp", "config": {"rate": 0.1}}
    config = {"registered_name": None, "compile_config": {"optimizer": {"config": [schedule]}}}
    assert list(registered_names(config)) == ["daso_tf>WarmUp"]


@pytest.mark.parametrize("name", LEARNERS, ids=str)
def test_learner_predicts_and_trains_as_before(name, loaded):
    folder = DATA / name.parts[0]
    error = loaded.get(f"{name}/error")
    if message := refusal(name):
        assert str(error).startswith("ValueError: ") and message in str(error)
        return
    assert error is None
    before = recorded(folder, name.name)
    assert np.abs(before["step_later"] - before["probabilities"]).max() > 1e-3
    # Each processor rounds bfloat16 and float16 in its own way.
    atol = 1e-3 if name.name.endswith("float16") else 1e-5
    np.testing.assert_allclose(loaded[f"{name}/probabilities"], before["probabilities"], atol=atol)
    # Keras 2.15 does not save what TensorFlow Addons' optimizers, Lookahead and LAMB, remember.
    of_addons = f"{name}" in ("keras_2/supervised_lookahead", "keras_2/mixmatch")
    atol = 1e-2 if of_addons or name.name in CHANGED else max(atol, 1e-4)
    np.testing.assert_allclose(loaded[f"{name}/step_later"], before["step_later"], atol=atol)


def forget(learner):
    """Overwrites what a learner predicts with."""
    for weight in learner.ema_encoder.weights:
        weight.assign(np.ones(weight.shape))


def test_checkpoint_is_restored(learner):
    folder = DATA / f"keras_{MAJOR}"
    before = recorded(folder, "daso_batch_norm")
    forget(learner)
    assert Checkpoints(folder / "checkpoints").restore(learner)
    assert int(learner.step) == int(learner.optimizer.iterations) == 3
    probabilities = learner(before["images"], training=False)
    np.testing.assert_allclose(probabilities, before["probabilities"], atol=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_encoder_weights_are_loaded(folder, learner):
    before = recorded(folder, "daso_batch_norm")
    forget(learner)
    learner.ema_encoder.load_weights(folder / "encoder.weights.h5")
    features = learner.ema_encoder(learner.as_input(before["images"]), training=False)
    np.testing.assert_allclose(features, before["features"], atol=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_export_serves(folder):
    before = recorded(folder, "daso_batch_norm")
    serve = tf.saved_model.load(str(folder / "export")).signatures["serving_default"]
    answer = serve(images=tf.constant(before["images"]))
    np.testing.assert_allclose(answer["probabilities"], before["probabilities"], atol=1e-5)
    classes = before["probabilities"].argmax(axis=1)
    np.testing.assert_array_equal(answer["class_ids"], classes)
    names = np.array([b"ant", b"bee", b"cicada"])[classes]
    np.testing.assert_array_equal(answer["class_names"], names)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("wrn_10_1", lambda: daso_tf.encoders.wide_resnet(10, 1)),
        ("resnet_18", lambda: daso_tf.encoders.resnet(18)),
    ],
)
def test_encoder_of_a_configuration_is_the_one_of_today(name, build, tmp_path):
    text = (DATA / f"keras_{MAJOR}" / f"{name}.json").read_text()
    saved, today = keras.models.model_from_json(text), build()
    today.set_weights([weight + 0.01 for weight in today.get_weights()])
    saved.set_weights(today.get_weights())
    # Additions have become part of BatchNorm layers.
    of_saved, of_today = ([type(one) for one in m.layers if one.weights] for m in (saved, today))
    assert of_saved == of_today
    saved.save_weights(tmp_path / "saved.weights.h5")
    today.set_weights([0 * weight for weight in today.get_weights()])
    today.load_weights(tmp_path / "saved.weights.h5")
    images = np.random.default_rng(0).normal(size=(1, *today.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(saved(images), today(images), rtol=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_unlabeled_distribution_is_read(folder):
    counts = read(folder / "unlabeled_distribution.json", [str(digit) for digit in range(10)])
    assert counts == [3.0 + digit for digit in range(10)]


@pytest.mark.parametrize("path", FLAG_FILES, ids=lambda path: path.parent.name + "_" + path.stem)
def test_flag_file_is_read(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    now = parsed(f"--flagfile={path}")
    for line in lines:
        name, value = line.removeprefix("--").split("=", 1)
        if isinstance(now[name], (list, tuple)):
            assert ",".join(now[name]) == value
        elif isinstance(now[name], (bool, str)):
            assert str(now[name]).lower() == value.lower()
        else:
            assert now[name] == float(value)


def served(model_dir, images):
    serve = tf.saved_model.load(str(model_dir / "export")).signatures["serving_default"]
    return serve(images=tf.constant(images))["probabilities"]


def copied(run):
    """Copies a run to where its flag file expects it; returns its path and the recorded answers."""
    folder = run.parents[1]
    shutil.copytree(run, model_dir := run.relative_to(folder))
    shutil.copy(folder / "unlabeled_distribution.json", ".")
    return model_dir, recorded(folder, model_dir)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_run_is_continued(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model_dir, before = copied(run)
    flag_file = f"--flagfile={model_dir / 'flags.cfg'}"

    evaluations = json.loads((model_dir / "results.json").read_text())["evaluations"]
    differs = DIFFERS.get(run.name)
    if differs:  # it is not continued silently, and nothing is lost
        assert run_train(flag_file, "--steps=4") == 2
        message = capsys.readouterr().err
        assert differs in message and "--adopt_changes" in message and "--steps=3" in message
    assert run_train(flag_file, "--steps=4", *(["--adopt_changes"] if differs else [])) == 0
    assert "Epoch 1/" not in capsys.readouterr().out
    atol = 1e-2 if differs else 1e-3
    np.testing.assert_allclose(served(model_dir, before["images"]), before["at_step_4"], atol=atol)
    later = json.loads((model_dir / "results.json").read_text())["evaluations"]
    assert [evaluation["step"] for evaluation in later] == [2, 3, 4]
    assert later[:2] == evaluations
    # Other settings are still noticed.
    assert run_train(flag_file, "--steps=4", "--seed=1") == 2
    assert "--seed: 0 there, 1 now" in capsys.readouterr().err


def test_finished_run_is_exported_again(tmp_path, monkeypatch):
    """Without another step, it answers as its checkpoint does."""
    monkeypatch.chdir(tmp_path)
    model_dir, before = copied(RUNS[0])
    assert run_train(f"--flagfile={model_dir / 'flags.cfg'}") == 0
    answers = served(model_dir, before["images"])
    np.testing.assert_allclose(answers, before["probabilities"], atol=1e-5)
