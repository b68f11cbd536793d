"""Training images that stay on the device: the same training, and what is refused."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, completed, run_train
from dense_learner import SIZE, K, dense_learner

import daso_tf
from daso_tf.data import DataError
from daso_tf.platform import cores
from daso_tf.run.of_folder import settings_of
from daso_tf.settings import combinations
from daso_tf.step import device_images


def data(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (60, SIZE, SIZE, 3), dtype=np.uint8)
    labels = rng.integers(0, K, 60)
    return daso_tf.data.from_arrays(
        images[:20], labels[:20], images[20:], unlabeled_labels=labels[20:]
    )


def batches(of, device_data, **settings):
    return daso_tf.data.training_batches(
        of, batch_size=4, unlabeled_ratio=2, seed=0, device_data=device_data, **settings
    )


def made(learner=daso_tf.FixMatch, **parts):
    if learner is not daso_tf.Supervised:
        parts["strong"] = daso_tf.augment.RandAugment(num_ops=0, cutout=2)
    return dense_learner(learner, **parts)


def trained(device_data, jit_compile=False, **parts):
    """Trains for two epochs; returns what was logged, and every variable."""
    model = made(**parts)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=jit_compile, steps_per_execution=2
    )
    of_learner = batches(data(), device_data, **model.batch_arguments)
    history = model.fit(of_learner, steps_per_epoch=2, epochs=2, shuffle=False, verbose=0)
    variables = [np.array(variable) for variable in (*model.weights, *model.optimizer.variables)]
    return history.history, variables


def assert_same(one, other):
    assert one[0] == other[0]
    for ours, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"jit_compile": True},
        {"threshold": "flexmatch", "data": data(), "total_steps": 8},  # its batches have positions
        {"learner": daso_tf.Supervised},  # its batches have no unlabeled images
        {"microbatches": 2},
    ],
    ids=["graph", "xla", "positions", "labeled alone", "microbatches"],
)
def test_training_is_the_same_bit_for_bit(arguments):
    assert_same(trained(True, **arguments), trained(False, **arguments))


def test_batches_have_positions_in_place_of_images():
    (labeled, unlabeled), (labels, known) = next(iter(batches(data(), True)))
    images, (expected, _) = next(iter(batches(data(), False)))
    assert labeled.dtype == unlabeled.dtype == tf.int64
    assert (labeled.shape, unlabeled.shape, known.shape) == ((4,), (8,), (8,))
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(data().labeled.images[labeled], images[0])
    np.testing.assert_array_equal(data().unlabeled.images[unlabeled], images[1])


def test_the_step_reads_the_images_in_memory_without_a_copy():
    images = daso_tf.data.memory.empty_images(6, (SIZE, SIZE))
    images[:] = 7
    part = daso_tf.data.Images(images, np.zeros(6, int))
    kept = device_images.DeviceImages(part, part)
    assert kept.labeled is kept.unlabeled
    assert np.shares_memory(np.asarray(memoryview(kept.labeled)), images)


def test_the_next_training_takes_its_own_images():
    model, other = made(), made()
    for one, device_data in ((model, True), (other, False)):
        for seed in (1, 2):
            of_seed = batches(data(seed), device_data, first_step=0)
            one.fit(of_seed, steps_per_epoch=2, shuffle=False, verbose=0)
        images = data().labeled.images[:4], data().unlabeled.images[:8]
        one.train_on_batch(images, data().labeled.labels[:4])
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


def test_a_run_that_stops_and_continues_is_the_run_without(finished_run, tmp_path):
    settings = {"evaluate_every": 2, "device_data": True, "model_dir": tmp_path / "run"}
    for steps in (4, 5):
        assert run_train(*arguments(steps=steps, **settings)) == 0
    folders = finished_run.model_dir, tmp_path / "run"
    without, kept = (dict(np.load(folder / "checkpoints/step_00000005.npz")) for folder in folders)
    assert without.keys() == kept.keys()
    for name, values in without.items():
        np.testing.assert_array_equal(kept[name], values, err_msg=name)
    # Commands that work on the folder of a run read its images when they need them.
    assert settings_of(tmp_path / "run", stream="true").device_data is False


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--strategy=mirrored", "on one device"),
        ("--stream=true", "do not stay on the device"),
        ("--freeze_encoder", "and no images"),
    ],
)
def test_flags_that_do_not_go_with_it_are_refused(flag, reason):
    settings = completed(*arguments(device_data=True), flag)
    with pytest.raises(ValueError, match=f"--device_data does not go with {flag}.*{reason}"):
        combinations.check(settings)


def test_images_that_do_not_fit_are_refused_with_the_bytes_before_training(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(cores, "gpu_memory", lambda: 10_000)
    options = arguments(steps=5, device_data=True, model_dir=tmp_path / "run")
    assert run_train(*options) == 2
    error = capsys.readouterr().err
    assert re.search(r"\d+ training images x 8 x 8 x 3 bytes are 0.00 GiB, more than half", error)
    assert "of the GPU. Leave out device_data" in error
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match=r"more than half of the 0.00 GiB of the GPU"):
        made().fit(batches(data(), True), verbose=0)


def test_images_in_files_and_several_replicas_are_refused():
    files = daso_tf.data.ImageFiles(["a.png"] * 20, np.arange(20) % K, (SIZE, SIZE))
    with pytest.raises(DataError, match=r"these 20 images \(0.00 GiB\) are read from files"):
        batches(dataclasses.replace(data(), labeled=files), True)
    context = tf.distribute.InputContext(num_replicas_in_sync=2)
    with pytest.raises(DataError, match="device_data needs one replica, not 2"):
        batches(data(), True, input_context=context)
