"""Resuming: checkpoints are complete or absent, and a killed run ends like a whole one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import logging
from channels import STATISTICS
from command import SMALL, arguments, built, run_train

from daso_tf import DASO, data
from daso_tf.data.identity import Part
from daso_tf.run.checkpoints import CheckpointError, Checkpoints, NonFiniteError
from daso_tf.run.data_file import UnlabeledImages

TESTS = Path(__file__).parent


def small_learner(seed, queue_size=2):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    encoder = keras.Model(image, features)
    learner = DASO(encoder, 3, queue_size=queue_size, pretrain_steps=0, **STATISTICS)
    learner.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), jit_compile=False)
    return learner


def remembered(learner):
    """Returns the variables that a run needs to resume; metrics are reset in every epoch."""
    return [
        *learner.network_weights,
        *learner.ema_network_weights,
        *learner.pseudo_labeler.weights,
        learner.step,
        *learner.optimizer.variables,
    ]


def state(learner):
    return [np.array(variable) for variable in remembered(learner)]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def set_everything(learner, value):
    """Sets every variable to a different value; none is right by chance."""
    for position, variable in enumerate(remembered(learner)):
        variable.assign(np.full(variable.shape, value + position, np.array(variable).dtype))


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints of a learner, and the state at each."""
    learner, checkpoints, states = small_learner(0), Checkpoints(tmp_path / "c"), {}
    for step in (10, 20, 30):
        set_everything(learner, step)
        learner.step.assign(step)
        path = checkpoints.save(learner)
        states[path] = state(learner)
    return checkpoints, states


def test_every_variable_is_restored(saved):
    checkpoints, states = saved
    learner = small_learner(1)
    assert checkpoints.restore(learner)
    assert int(learner.step.numpy()) == 30
    assert_equal(state(learner), list(states.values())[-1])


def test_a_folder_without_checkpoints_changes_nothing(tmp_path):
    learner = small_learner(2)
    before = state(learner)
    assert not Checkpoints(tmp_path / "none").restore(learner)
    assert_equal(state(learner), before)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit])
def test_the_checkpoint_before_a_damaged_one_is_restored(saved, damage, caplog):
    checkpoints, states = saved
    _, middle, newest = states
    damage(newest)
    learner = small_learner(3)
    logging.set_verbosity(logging.WARNING)
    with caplog.at_level("WARNING", logger="absl"):
        assert checkpoints.restore(learner)
    assert_equal(state(learner), states[middle])
    assert newest.name in caplog.text


def test_unfinished_file_is_not_a_checkpoint(saved):
    checkpoints, states = saved
    newest = list(states)[-1]
    newest.rename(newest.with_name(newest.name + ".tmp"))
    learner = small_learner(4)
    assert checkpoints.restore(learner)
    assert int(learner.step.numpy()) == 20


def test_no_readable_checkpoint_is_an_error_that_changes_nothing(saved):
    checkpoints, states = saved
    for path in states:
        cut(path)
    learner = small_learner(5)
    before = state(learner)
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints"):
        checkpoints.restore(learner)
    assert_equal(state(learner), before)


def test_checkpoint_of_another_model_is_not_restored(saved):
    checkpoints, _ = saved
    with pytest.raises(CheckpointError):
        checkpoints.restore(small_learner(6, queue_size=5))


def test_only_the_newest_are_kept(tmp_path):
    learner, checkpoints = small_learner(7), Checkpoints(tmp_path, keep=2)
    for step in (1, 9, 10, 100):
        learner.step.assign(step)
        checkpoints.save(learner)
    assert [path.name for path in checkpoints.paths()] == [
        "step_00000100.npz",
        "step_00000010.npz",
    ]


def test_state_that_is_not_finite_is_not_saved(saved):
    checkpoints, states = saved
    learner = small_learner(8)
    learner.step.assign(40)
    kernel = learner.trainable_variables[0]
    kernel.assign(np.full(kernel.shape, np.inf))
    with pytest.raises(NonFiniteError, match="infinity"):
        checkpoints.save(learner)
    assert set(checkpoints.paths()) == set(states)


@pytest.mark.parametrize(
    "flag",
    ["--threshold=flexmatch", "--threshold=adsh", "--threshold=saw", "--pseudo_labeler=darp"],
)
def test_memories_of_images_are_carried_over_by_name(tmp_path, flag):
    def learner(count):
        images = np.zeros((4 + count, 8, 8, 3), np.uint8)
        return built(
            data.from_arrays(images[:4], [0, 1, 0, 1], images[4:]),
            *(f"--{name}={SMALL[name]}" for name in ("encoder", "resolution", "jit_compile")),
            *("--dataset=digits", flag),
        )

    def part(names):
        return Part(tuple(names), (1,) * len(names), (-1,) * len(names))

    def memories(learner):
        parts = [p for p in (learner.threshold, learner.pseudo_labeler) if p is not None]
        return [variable for p in parts for variable in p.image_memories()]

    before, now = part("abcd"), part("bxday")
    old, new, fresh = learner(4), learner(5), learner(5)
    assert memories(old)
    for number, variable in enumerate(memories(old)):
        values = np.arange(np.prod(variable.shape)).reshape(variable.shape) + number
        variable.assign(values.astype(np.array(variable).dtype))
    Checkpoints(tmp_path, unlabeled=UnlabeledImages(before)).save(old)
    continued = Checkpoints(tmp_path, unlabeled=UnlabeledImages(now, [before]))
    assert continued.restore(new)
    for saved, restored, initial in zip(*map(memories, (old, new, fresh)), strict=True):
        rows = np.array(restored)
        np.testing.assert_array_equal(rows[[0, 2, 3]], np.array(saved)[[1, 3, 0]])
        np.testing.assert_array_equal(rows[[1, 4]], np.array(initial)[[1, 4]])
    np.testing.assert_array_equal(
        np.array(new.encoder.weights[0]), np.array(old.encoder.weights[0])
    )


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import command
from daso_tf.run import run
from daso_tf.run.callbacks import StopAtNonFiniteLoss

class Kill(StopAtNonFiniteLoss):
    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.step.numpy()) == 13:
            os.kill(os.getpid(), signal.SIGKILL)

run.StopAtNonFiniteLoss = Kill
command.run_train(*sys.argv[1:])
"""


def test_killed_run_ends_like_an_uninterrupted_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = {"steps": 20, "evaluate_every": 5, "validation_size": 0}
    assert run_train(*arguments(model_dir=whole, **settings)) == 0

    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED.format(tests=str(TESTS)),
            *arguments(model_dir=parts, **settings),
        ],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in Checkpoints(parts / "checkpoints").paths()] == [
        "step_00000010.npz",
        "step_00000005.npz",
    ]
    assert run_train(*arguments(model_dir=parts, **settings)) == 0

    last = Path("checkpoints/step_00000020.npz")
    with np.load(whole / last) as one, np.load(parts / last) as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    # The evaluations and the pseudo-label statistics are equal too.
    assert (whole / "results.json").read_text() == (parts / "results.json").read_text()
