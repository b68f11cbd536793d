"""Checkpoints between evaluations, and another `--evaluate_every` in a run that continues."""

import json
import shutil

import numpy as np
import pytest
from command import arguments, completed, run_train

from daso_tf.run import epochs, run
from daso_tf.run.callbacks import StopAtNonFiniteLoss


def checkpoints_of(model_dir):
    return sorted(int(path.stem[5:]) for path in (model_dir / "checkpoints").iterdir())


def interrupted_at(step, monkeypatch):
    """Makes a run stop before a step, as Ctrl-C does."""

    class Interrupt(StopAtNonFiniteLoss):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.step.numpy()) == step:
                raise KeyboardInterrupt

    monkeypatch.setattr(run, "StopAtNonFiniteLoss", Interrupt)


def test_a_run_that_continues_between_evaluations_ends_as_an_undisturbed_one(
    finished_run, tmp_path, monkeypatch
):
    model_dir = tmp_path / "run"
    command = arguments(model_dir=model_dir, steps=5, evaluate_every=4, checkpoint_every=1)
    interrupted_at(3, monkeypatch)
    assert run_train(*command) == 130
    assert checkpoints_of(model_dir) == [1, 2, 3]
    monkeypatch.undo()
    # An undisturbed run of the same evaluations, from a checkpoint before all of them.
    shutil.copytree(model_dir, tmp_path / "whole")
    for step in (2, 3):
        (tmp_path / "whole" / "checkpoints" / f"step_0000000{step}.npz").unlink()
    assert run_train(*command, f"--model_dir={tmp_path / 'whole'}", "--checkpoint_every=0") == 0
    assert checkpoints_of(tmp_path / "whole") == [1, 4, 5]
    assert run_train(*command) == 0
    assert checkpoints_of(model_dir) == [3, 4, 5]

    evaluations = (model_dir / "results.json").read_bytes()
    assert evaluations == (tmp_path / "whole" / "results.json").read_bytes()
    linear = json.loads(evaluations)["evaluations"][0]["pseudo_labels"]["linear"]
    assert sum(linear["assigned"]) == 4 * 16  # four steps of 16 unlabeled images
    last = "checkpoints/step_00000005.npz"
    for other in (finished_run.model_dir, tmp_path / "whole"):
        with np.load(model_dir / last) as ours, np.load(other / last) as theirs:
            assert ours.files == theirs.files
            for name in ours.files:
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_evaluate_every_may_change(finished_run, tmp_path, monkeypatch):
    predictions = []

    class Recorded(run.Prediction):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            predictions.append(self)

    monkeypatch.setattr(run, "Prediction", Recorded)
    shutil.copytree(finished_run.model_dir, tmp_path / "run")
    assert run_train(*arguments(model_dir=tmp_path / "run", steps=7, evaluate_every=3)) == 0
    evaluations = json.loads((tmp_path / "run" / "results.json").read_text())["evaluations"]
    assert [entry["step"] for entry in evaluations] == [2, 4, 5, 6, 7]
    assigned = [sum(entry["pseudo_labels"]["linear"]["assigned"]) for entry in evaluations]
    assert assigned == [16 * steps for steps in (2, 2, 1, 1, 1)]
    assert "--evaluate_every=3\n" in (tmp_path / "run" / "flags.cfg").read_text()
    (predict,) = predictions
    assert predict.trace_count == 2  # once for the test images and once for those of validation


def test_steps_per_execution_must_reach_every_checkpoint():
    settings = completed(*arguments(steps=8, evaluate_every=4, checkpoint_every=2))
    epochs.check(settings.replace(steps_per_execution=2), 0)
    with pytest.raises(ValueError, match=r"must divide .*--checkpoint_every=2.*values: 1, 2"):
        epochs.check(settings.replace(steps_per_execution=4), 0)
