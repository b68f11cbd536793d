"""SIGTERM and Ctrl-C: a command ends with one line, and a stopped run ends like a whole one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import arguments, run_train

from daso_tf.commands import train
from daso_tf.platform import signals
from daso_tf.run import callbacks, run
from daso_tf.run.checkpoints import Checkpoints

ROOT = Path(__file__).parents[1]
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
        run.finish(of_run)

    monkeypatch.setattr(train, "finish", terminate_and_finish)
    settings = {**SETTINGS, "steps": 1}
    assert run_train(*arguments(model_dir=tmp_path, **settings)) == 143
    assert capsys.readouterr().err == "daso-tf: stopped by SIGTERM; the run is finished\n"
    assert (tmp_path / "export/saved_model.pb").exists()


def test_the_library_installs_no_handlers():
    program = (
        "import signal; before = [signal.getsignal(n) for n in range(1, 32)];"
        "import daso_tf; assert [signal.getsignal(n) for n in range(1, 32)] == before"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


SENT = """
import os, signal, sys
sys.orig_argv = [sys.executable, "-m", "daso_tf.train"]  # as a command
sys.argv[0] = "daso-tf"
NUMBER = int(sys.argv.pop(1))
def send(*arguments, **names):
    os.kill(os.getpid(), NUMBER)
    while True:
        signal.pause()
"""
WHILE = {
    # TensorFlow is imported with the standard error stream redirected.
    "importing": "import importlib.abc\n"
    "class Finder(importlib.abc.MetaPathFinder):\n"
    "    def find_spec(self, name, path, target=None):\n"
    "        if name == 'tensorflow': send()\n"
    "sys.meta_path.insert(0, Finder())\n",
    "loading": "from daso_tf.run import run\nrun.load = send",
    "exporting": "from daso_tf.step import classifier\nclassifier.write_saved_model = send",
}


CONTINUES = "; the same command continues from the newest checkpoint"


@pytest.mark.parametrize(
    ("moment", "number", "line"),
    [
        ("importing", signal.SIGINT, "interrupted"),
        ("loading", signal.SIGTERM, "stopped by SIGTERM" + CONTINUES),
        ("exporting", signal.SIGINT, "interrupted" + CONTINUES),
    ],
)
def test_a_signal_ends_a_command_at_once_with_one_line(moment, number, line, tmp_path):
    program = SENT + WHILE[moment] + "\nfrom daso_tf.commands import cli\ncli.main()"
    command = ["train", *arguments(model_dir=tmp_path, steps=1, evaluate_every=1)]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(int(number)), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.stderr == f"daso-tf: {line}\n"
    assert ended.returncode == signals.EXIT_CODES[number]
