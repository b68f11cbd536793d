"""`--calibrate`: what it makes of the probabilities of an export, and when it is refused."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train
from scipy.special import softmax

from daso_tf.commands import terminal
from daso_tf.commands.export import COMMAND
from daso_tf.run import exported

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def export(*argv):
    return terminal.call(COMMAND, [str(argument) for argument in argv])


def answers(folder):
    return tf.saved_model.load(str(folder)).signatures["serving_default"](images=IMAGES)


@pytest.fixture
def copied_run(finished_run, tmp_path):
    shutil.copytree(finished_run.model_dir, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_the_export_contains_the_calibration(copied_run, capsys, kind):
    plain = answers(copied_run / "export")["probabilities"].numpy()
    assert export(copied_run, f"--calibrate={kind}") == 0
    found = json.loads((copied_run / "results.json").read_text())["exported"]
    fitted = found["calibrated"]
    expected = softmax(np.log(plain) / fitted["temperature"] + fitted["bias"], axis=1)
    calibrated = answers(copied_run / "export")
    np.testing.assert_allclose(calibrated["probabilities"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(calibrated["class_ids"], expected.argmax(axis=1))
    assert np.any(fitted["bias"]) == (kind == "vector")
    assert not np.isclose(fitted["temperature"], 1)
    output = capsys.readouterr().out
    after = fitted["after"]["log_loss"]
    assert f"temperature {fitted['temperature']:.2f}" in output
    assert f"log loss {fitted['before']['log_loss']:.3f} before, {after:.3f} after" in output

    written = (copied_run / "export").stat().st_ino
    assert export(copied_run, f"--calibrate={kind}") == 0
    assert (copied_run / "export").stat().st_ino == written
    assert export(copied_run) == 0
    np.testing.assert_allclose(answers(copied_run / "export")["probabilities"], plain, rtol=1e-6)
    record = json.loads((copied_run / "export" / exported.RECORD).read_text())
    assert "calibrator" not in record


def test_validation_images_are_needed(tmp_path, capsys):
    argv = arguments(model_dir=tmp_path / "run", steps=3, validation_size=0)
    assert run_train(*argv, "--calibrate=temperature") == 2
    message = capsys.readouterr().err
    assert "--calibrate=temperature needs validation images" in message  # nothing is frozen
    assert "--validation_size" in message and not (tmp_path / "run").exists()
