"""SIGTERM while a run trains or exports: it stops after the step, and ends like a whole one."""

import os
import signal
from pathlib import Path

import numpy as np
from command import arguments, run_train

from daso_tf.commands import train
from daso_tf.run import callbacks, finishing, run
from daso_tf.run.checkpoints import Checkpoints

SETTINGS = {"steps": 10, "evaluate_every": 5, "steps_per_execution": 1}


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def in_step(step):
    """SIGTERM before a step."""

    class Terminate(callbacks.StopAtNonFiniteLoss):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.step.numpy()) == step - 1:
                terminate()

    return "StopAtNonFiniteLoss", Terminate


def in_evaluation(step):
    """SIGTERM in the evaluation after a step."""

    class Terminate(callbacks.Evaluation):
        def on_epoch_end(self, epoch, logs=None):
            if int(self.model.step.numpy()) == step:
                terminate()
            super().on_epoch_end(epoch, logs)

    return "Evaluation", Terminate


def test_sigterm_ends_after_the_step_and_the_run_continues_exactly(tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_train(*arguments(model_dir=whole, **SETTINGS)) == 0
    command = arguments(model_dir=stopped, **SETTINGS)
    handler = signal.getsignal(signal.SIGTERM)
    for replaced, saved, evaluated in (
        (in_step(3), [3], 0),  # within an epoch
        (in_evaluation(5), [5, 3], 1),  # the evaluation is finished first
        (in_step(8), [8, 5, 3], 0),
    ):
        capsys.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(run, *replaced)
            assert run_train(*command) == 143
        assert signal.getsignal(signal.SIGTERM) == handler
        captured = capsys.readouterr()
        assert captured.err == (
            f"daso-tf: stopped by SIGTERM after step {saved[0]}; the same command continues from "
            "the newest checkpoint\n"
        )
        assert [path.name for path in Checkpoints(stopped / "checkpoints").paths()] == [
            f"step_{step:08d}.npz" for step in saved
        ]
        assert captured.out.count(", test: ") == evaluated
    assert run_train(*command) == 0

    last = Path("checkpoints/step_00000010.npz")
    with np.load(whole / last) as one, np.load(stopped / last) as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    # The statistics of the epochs in which the run was stopped are equal, too.
    assert (whole / "results.json").read_text() == (stopped / "results.json").read_text()


def test_sigterm_in_the_export_ends_after_it(tmp_path, monkeypatch, capsys):
    def terminate_and_finish(of_run):
        terminate()
        finishing.finish(of_run)

    monkeypatch.setattr(train, "finish", terminate_and_finish)
    settings = {**SETTINGS, "steps": 1, "pretrain_steps": 0}
    assert run_train(*arguments(model_dir=tmp_path, **settings)) == 143
    assert capsys.readouterr().err == "daso-tf: stopped by SIGTERM; the run is finished\n"
    assert (tmp_path / "export/saved_model.pb").exists()
