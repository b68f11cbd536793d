"""Checkpoints are written while training continues, and nobody takes a part of one for a whole."""

import errno
import os
import signal
import threading
import types

import numpy as np
import pytest
from test_resume import small_learner

from daso_tf.platform import background, signals
from daso_tf.platform.files import write_atomically
from daso_tf.run import callbacks, checkpoints
from daso_tf.run.checkpoints import Checkpoints


@pytest.fixture
def disk(monkeypatch):
    """A disk that writes checkpoints only when it is told to, or is full."""
    disk = types.SimpleNamespace(free=threading.Event(), busy=threading.Event(), full=False)

    def write(path, content):
        disk.busy.set()
        assert disk.free.wait(60)
        if disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_atomically(path, content)

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    yield disk
    disk.free.set()  # a test that fails must not leave the thread waiting
    background.finish()


@pytest.fixture(scope="module")
def learner():
    return small_learner(0)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_the_state_of_the_moment(learner, disk, tmp_path):
    saved, weight = Checkpoints(tmp_path), learner.trainable_variables[0]
    learner.step.assign(3)
    value = weight.numpy()
    path = saved.start_saving(learner)
    assert disk.busy.wait(60) and not path.exists()
    learner.step.assign(4)
    weight.assign(value + 1)  # as the next step does
    disk.free.set()
    assert saved.steps() == [3]  # it waits
    assert saved.restore(learner)
    assert int(learner.step) == 3
    np.testing.assert_array_equal(weight.numpy(), value)


def test_there_is_at_most_one_that_is_not_written(learner, disk, tmp_path, monkeypatch):
    saved, order = Checkpoints(tmp_path), []
    variables = checkpoints._named_variables

    def copied(model):
        order.append(f"copied after {names(tmp_path)}")
        return variables(model)

    monkeypatch.setattr(checkpoints, "_named_variables", copied)
    learner.step.assign(1)
    saved.start_saving(learner)
    assert disk.busy.wait(60)
    learner.step.assign(2)
    second = threading.Thread(target=saved.start_saving, args=(learner,))
    second.start()
    disk.free.set()
    second.join()
    assert order == ["copied after []", "copied after ['step_00000001.npz']"]
    assert saved.steps() == [2, 1]


def test_the_error_of_a_full_disk_comes_with_the_next_one_and_costs_no_other(
    learner, disk, tmp_path
):
    saved = Checkpoints(tmp_path, keep=2)
    disk.free.set()
    for step in (1, 2):
        learner.step.assign(step)
        saved.save(learner)
    disk.full = True
    for step, found in ((3, saved.wait), (4, lambda: saved.start_saving(learner))):
        learner.step.assign(step)
        saved.start_saving(learner)
        with pytest.raises(OSError, match=f"No space left on device.*step_0000000{step}.npz"):
            found()
    saved.wait()  # each error is raised once
    assert saved.steps() == [2, 1]
    disk.full = False
    learner.step.assign(5)
    saved.save(learner)
    assert saved.steps() == [5, 2]


def test_an_error_is_found_after_a_step_without_waiting(learner, disk, tmp_path):
    saved = Checkpoints(tmp_path)
    callback = callbacks.SaveCheckpoint(saved)
    callback.set_model(learner)
    callback.on_epoch_end(0)
    callback.on_epoch_begin(1)
    callback.after_step(0, last=False)  # it is being written
    disk.full = True
    disk.free.set()
    background.finish()
    with pytest.raises(OSError, match="No space left"):
        callback.after_step(1, last=False)


def test_a_training_that_ends_with_an_error_waits_first(learner, disk, tmp_path):
    saved = Checkpoints(tmp_path)
    learner.step.assign(1)
    with pytest.raises(KeyboardInterrupt), saved.written():
        saved.start_saving(learner)
        assert disk.busy.wait(60) and not names(tmp_path)
        disk.free.set()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["step_00000001.npz"]


@pytest.mark.parametrize("signals_sent", [1, 2])
def test_a_signal_waits_for_what_is_written_and_the_second_one_does_not(
    signals_sent, monkeypatch, capfd
):
    written, task, order = threading.Event(), background.Background(), []
    ended = threading.Event()

    def end(code):
        order.append(code)
        ended.set()

    def write():
        assert written.wait(60)
        order.append("written")

    monkeypatch.setattr(signals._State, "ending", False)
    monkeypatch.setattr(signals.os, "_exit", end)
    task.start(write)
    first = threading.Thread(target=signals._handle, args=(signal.SIGINT,))
    first.start()
    if signals_sent == 2:
        while not signals._State.ending:
            pass
        signals._handle(signal.SIGINT)
        assert order == [130]
    written.set()
    first.join()
    assert order == [130] * (signals_sent - 1) + ["written", 130]
    assert ended.is_set() and "interrupted" in capfd.readouterr().err
