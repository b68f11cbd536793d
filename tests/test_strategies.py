"""Steps on several replicas equal the steps of one device."""

import json
import subprocess
import sys
from pathlib import Path

import distributed_steps
import keras
import numpy as np
import pytest
import tensorflow as tf
from distributed_steps import STEPS, data, learner, train
from processes import ENVIRONMENT, FAST_XLA

from daso_tf.platform import strategies
from daso_tf.platform.keras_versions import KERAS_3, apply_gradients, build_optimizer
from daso_tf.run.checkpoints import Checkpoints

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same steps on one device and on two replicas, and each continued by the other."""
    folder = tmp_path_factory.mktemp("runs")
    model = learner()
    Checkpoints(folder / "start").save(model)
    train(model, folder / "start", folder / "half", STEPS // 2)
    train(model, folder / "start", folder / "alone", STEPS)
    subprocess.run(
        [sys.executable, distributed_steps.__file__, folder, "2"],
        cwd=TESTS.parent,
        env=ENVIRONMENT,
        check=True,
    )
    train(model, folder / "replicas_half", folder / "alone_rest", STEPS)
    return folder, model


def assert_same(one, other):
    """Whole numbers are equal; floats differ only by the order of float32 sums."""
    with np.load(one) as ours, np.load(other) as theirs:
        assert ours.files == theirs.files
        # Each replica adds its mean loss to the metrics, so their sums depend on the replicas.
        for name in [name for name in ours.files if not name.startswith("metrics/")]:
            if ours[name].dtype.kind in "iu":
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
            else:
                scale = np.abs(ours[name]).max()
                np.testing.assert_allclose(
                    ours[name], theirs[name], rtol=0, atol=1e-5 * scale, err_msg=name
                )


def last(folder, name):
    return Checkpoints(folder / name).paths()[0]


@pytest.mark.parametrize("name", ["replicas", "replicas_rest", "alone_rest"])
def test_twenty_steps_end_where_those_of_one_device_do(runs, name):
    folder, _ = runs
    # The variables include the queues, the histogram and the pseudo-labels of every step.
    assert_same(last(folder, "alone"), last(folder, name))


def test_every_image_is_measured_once(runs):
    folder, _ = runs
    ours, theirs = (
        json.loads((folder / run / "logs.json").read_text()) for run in ("alone", "replicas")
    )
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-5, err_msg=name)


def test_every_image_is_predicted_once_in_order(runs):
    folder, model = runs
    Checkpoints(folder / "replicas_rest").restore(model)
    probabilities = model.predict(data().unlabeled.images, verbose=0)
    np.testing.assert_allclose(np.load(folder / "probabilities.npy"), probabilities, rtol=1e-5)


def test_saved_model_and_export_do_not_depend_on_replicas(runs):
    folder, model = runs
    images = data().unlabeled.images[:8]
    Checkpoints(folder / "replicas_rest").restore(model)
    expected = model.predict(images, verbose=0)
    loaded = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, rtol=1e-5)
    serve = tf.saved_model.load(folder / "export").signatures["serving_default"]
    np.testing.assert_allclose(serve(images=images)["probabilities"], expected, rtol=1e-5)


def test_methods_with_a_memory_step_as_on_one_device():
    """A method remembers the whole batch, not only the rows of one replica."""
    finished = subprocess.run(
        [sys.executable, TESTS / "distributed_methods.py"],
        cwd=TESTS.parent,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    differences = json.loads(finished.stdout.splitlines()[-1])
    assert len(differences) == 7
    assert {name: value for name, value in differences.items() if value > 1e-5} == {}


def test_an_unknown_strategy_is_refused():
    with pytest.raises(
        ValueError, match=r"no strategy 'tpu'\. Allowed: none, mirrored, multi_worker"
    ):
        strategies.make("tpu")


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_leaves_nothing_on_the_optimizer(scaled):
    """One step of SGD at rate 0.5; the optimizer is the user's object and keeps its attributes."""
    inner = optimizer = keras.optimizers.SGD(0.5)
    if scaled:
        optimizer = keras.mixed_precision.LossScaleOptimizer(inner)
    variable = tf.Variable([1.0, 2.0])
    build_optimizer(optimizer, [variable])
    before = [set(vars(part)) for part in (optimizer, inner)]
    apply_gradients(optimizer, [tf.constant([1.0, -1.0])], [variable])
    np.testing.assert_array_equal(variable, [0.5, 2.5])
    assert [set(vars(part)) for part in (optimizer, inner)] == before


# Under Keras 2, one learner shows that XLA compiles on replicas: each takes minutes there.
@pytest.mark.parametrize("run", ["daso", *["mean_teacher"] * KERAS_3])
def test_xla_compiles_the_networks_of_each_replica(run):
    finished = subprocess.run(
        [sys.executable, TESTS / "distributed_xla.py", run],
        cwd=TESTS.parent,
        # At level 0 TensorFlow logs once that XLA has compiled something.
        env=FAST_XLA | {"TF_CPP_MIN_LOG_LEVEL": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Compiled cluster using XLA" in finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["variables"] < 1e-5 and found["batch_norm"] < 1e-5
    assert found["predictions"] < 1e-5
    assert "--nosynchronized_batch_norm" in found["refusal"]
