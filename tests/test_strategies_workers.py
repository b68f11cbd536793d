"""Many workers train like one process. If one stops, the others stop, and all continue later."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train

from daso_tf.commands import train as train_command
from daso_tf.commands.workers import cluster
from daso_tf.platform import strategies
from daso_tf.platform.keras_versions import KERAS_3
from daso_tf.platform.rendezvous import Worker

TESTS = Path(__file__).parent
SETTINGS = {"batch_size": 6, "learning_rate": 0.003, "steps": 20, "evaluate_every": 10}
LAST = Path("checkpoints/step_00000020.npz")


def train_workers(folder, signal_at=-1, number=signal.SIGKILL, **settings):
    """Trains with three workers; returns their exit codes and what each has printed.

    The last one gets a signal before a step.
    """
    settings = {**SETTINGS, "strategy": "multi_worker", "wait_for_workers": 60, **settings}
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    finished = subprocess.run(
        [
            sys.executable,
            TESTS / "train_workers.py",
            "3",
            str(signal_at),
            str(int(number)),
            logs,
            *arguments(model_dir=folder / "run", **settings),
        ],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout), [log.read_text() for log in sorted(logs.glob("*.txt"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run by three workers."""
    if not KERAS_3:
        pytest.skip("many workers need Keras 3")
    folder = tmp_path_factory.mktemp("whole")
    codes, printed = train_workers(folder)
    assert codes == [0, 0, 0], "\n".join(printed)
    return folder / "run", printed


def test_three_workers_end_where_one_process_does(whole, tmp_path):
    run, _ = whole
    assert run_train(*arguments(model_dir=tmp_path, **SETTINGS)) == 0
    with np.load(tmp_path / LAST) as ours, np.load(run / LAST) as theirs:
        assert ours.files == theirs.files
        for name in ours.files:
            if ours[name].dtype.kind in "iu":  # queues, steps
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
            else:
                atol = 1e-5 * np.abs(ours[name]).max()
                np.testing.assert_allclose(ours[name], theirs[name], 0, atol, err_msg=name)
    evaluations = [json.loads((at / "results.json").read_text()) for at in (tmp_path, run)]
    for one, many in zip(*(of["evaluations"] for of in evaluations), strict=True):
        assert (
            one["pseudo_labels"]["final"]["assigned"] == many["pseudo_labels"]["final"]["assigned"]
        )


def test_the_chief_alone_prints_and_writes(whole):
    run, (chief, *others) = whole
    assert f"{run} is finished, 20 steps." in chief
    for printed in others:
        assert "step 10" not in printed
        assert "finished" not in printed
    assert (run / "export" / "saved_model.pb").exists()


def test_stopped_workers_continue_exactly(whole, tmp_path):
    codes, printed = train_workers(tmp_path, signal_at=4, number=signal.SIGTERM)
    assert codes == [143] * 3, "\n".join(printed)
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()  # all stop after the same step
    step = int(checkpoint.stem.removeprefix("step_"))
    assert 5 <= step < 10
    for text in printed:
        assert text.endswith(
            f"daso-tf: stopped by SIGTERM after step {step}; the same command continues from the "
            "newest checkpoint\n"
        )
        assert "Traceback" not in text

    codes, printed = train_workers(tmp_path, signal_at=12)
    assert codes == [1, 1, -signal.SIGKILL]
    for text in printed[:2]:
        assert "stopped, another worker is gone" in text
        assert "Traceback" not in text
    checkpoints = sorted((tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == [checkpoint, checkpoint.with_name("step_00000010.npz")]

    codes, printed = train_workers(tmp_path)
    assert codes == [0, 0, 0], "\n".join(printed)
    run, _ = whole
    with np.load(run / LAST) as ours, np.load(tmp_path / "run" / LAST) as theirs:
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert (run / "results.json").read_text() == (tmp_path / "run/results.json").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "it is not set"),
        ("{", "it is '{'"),
        ('{"cluster": {"worker": ["a:1"]}}', "KeyError: 'task'"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "lists of 'chief'"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "HOST:PORT"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "worker 1"),
    ],
)
def test_unusable_tf_config_is_refused(monkeypatch, text, said):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG") as error:
        strategies.make("multi_worker")
    assert said in str(error.value)


@pytest.mark.skipif(KERAS_3, reason="what is refused is Keras 2")
def test_keras_2_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster(1)[0]["TF_CONFIG"])
    with pytest.raises(ValueError, match=r"needs Keras 3.*--strategy=mirrored"):
        strategies.make("multi_worker")


def test_chief_comes_before_the_workers(monkeypatch):
    config = {
        "cluster": {"worker": ["b:1", "c:1"], "chief": ["a:1"]},
        "task": {"type": "worker", "index": 1},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert strategies.worker_from_environment() == Worker(["a:1", "b:1", "c:1"], 2)


@pytest.mark.parametrize("moment", ["prepare", "train"])
def test_a_lost_worker_is_one_line_at_any_moment(moment, monkeypatch, tmp_path, capsys):
    """A worker may stop while the others still make their weights the same."""

    def lost(*_):
        raise tf.errors.UnavailableError(None, None, "the other one is gone")

    cluster_of_two = {"cluster": {"worker": ["localhost:1", "localhost:2"]}}
    task = {"task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster_of_two | task))
    monkeypatch.setattr(train_command, "prepare", lambda *_: types.SimpleNamespace())
    monkeypatch.setattr(train_command, moment, lost)
    argv = arguments(model_dir=tmp_path / "run", strategy="multi_worker")
    assert run_train(*argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("daso-tf: stopped, another worker is gone (UnavailableError).")
    assert error.count("\n") == 1
