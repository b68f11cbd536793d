"""Optimizers by name against plain NumPy; those of TensorFlow Addons in a whole run."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from command import arguments, built, run_train
from dense_learner import COUNTS, SIZE, K

import daso_tf
from daso_tf.platform.keras_versions import build_optimizer, optimizer_variables
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.settings import optimizers
from daso_tf.step import metrics

RATE, MOMENTUM, DECAY = 0.1, 0.8, 0.05
GRADIENTS = np.random.default_rng(0).normal(size=(8, 2, 3))
START = np.linspace(-2.0, 3.0, 6).reshape(2, 3)

try:
    import tensorflow_addons as addons
except ImportError as error:
    addons = None
    needs_addons = pytest.mark.skip(reason=f"TensorFlow Addons cannot be imported ({error})")
else:
    needs_addons = pytest.mark.skipif(False, reason="")


def sgd(w, gradients, decay=0.0):
    velocity = np.zeros_like(w)
    for gradient in gradients:
        w = w - RATE * decay * w
        velocity = MOMENTUM * velocity - RATE * gradient
        w = w + MOMENTUM * velocity - RATE * gradient
    return w


def adam_updates(gradients, epsilon):
    """Kingma and Ba, "Adam", algorithm 1."""
    m = v = np.zeros_like(gradients[0])
    for t, gradient in enumerate(gradients, start=1):
        m = MOMENTUM * m + (1 - MOMENTUM) * gradient
        v = 0.999 * v + 0.001 * gradient**2
        yield m / (1 - MOMENTUM**t) / (np.sqrt(v / (1 - 0.999**t)) + epsilon)


def adam(w, gradients, decay=0.0):
    for update in adam_updates(gradients, 1e-7):
        w = w - RATE * decay * w - RATE * update
    return w


def lamb(w, gradients):
    for update in adam_updates(gradients, 1e-6):
        w = w - RATE * np.linalg.norm(w) / np.linalg.norm(update) * update
    return w


def lookahead_sgd(w, gradients):
    """Every 6 steps the weights move half of the way back; the momentum continues."""
    slow, velocity = w, np.zeros_like(w)
    for t, gradient in enumerate(gradients, start=1):
        velocity = MOMENTUM * velocity - RATE * gradient
        w = w + MOMENTUM * velocity - RATE * gradient
        if t % 6 == 0:
            slow = w = slow + 0.5 * (w - slow)
    return w


def made(name):
    """Makes the optimizer of a name; skips the test where a package that it needs is missing."""
    try:
        return optimizers.build(name, RATE, MOMENTUM, DECAY)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "expected", "left_to_the_learner"),
    [
        ("sgd", sgd, DECAY),
        ("sgdw", lambda w, gradients: sgd(w, gradients, DECAY), 0.0),
        ("adam", adam, DECAY),
        ("adamw", lambda w, gradients: adam(w, gradients, DECAY), 0.0),
        ("lamb", lamb, DECAY),
        ("lookahead_sgd", lookahead_sgd, DECAY),
    ],
)
def test_steps_are_those_of_the_papers(name, expected, left_to_the_learner):
    optimizer, weight_decay = made(name)
    variable = tf.Variable(START, dtype=tf.float32)
    build_optimizer(optimizer, [variable])
    for gradient in GRADIENTS:
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    np.testing.assert_allclose(variable, expected(START, GRADIENTS), rtol=1e-4, atol=1e-5)
    assert weight_decay == left_to_the_learner


def test_an_unknown_optimizer_is_refused_with_the_allowed_ones():
    with pytest.raises(
        ValueError, match="no optimizer 'sgdm'; allowed: sgd, adam, pytorch_adam, adamw, lamb"
    ):
        optimizers.build("sgdm", RATE)


@pytest.mark.skipif(addons is not None, reason="TensorFlow Addons is installed")
def test_an_optimizer_of_addons_names_the_extra_to_install(tmp_path, capsys):
    assert run_train(*arguments(model_dir=tmp_path / "run", optimizer="lookahead_sgd")) == 2
    message = capsys.readouterr().err
    assert "lookahead_sgd needs" in message and 'pip install "daso_tf[addons]"' in message


@pytest.mark.parametrize(
    ("name", "learners", "optimizers"), [("sgd", 0.25, None), ("sgdw", 0, 0.25), ("adamw", 0, 0.25)]
)
def test_weights_decay_once(name, learners, optimizers):
    images = np.zeros((6, SIZE, SIZE, 3), np.uint8)
    data = daso_tf.data.from_arrays(images, np.arange(6) % K, images)
    model = built(data, *arguments(optimizer=name, weight_decay=0.25))
    assert (model.weight_decay, model.optimizer.weight_decay) == (learners, optimizers)


@pytest.mark.parametrize("module", [optimizers, metrics])
def test_docstring_examples(module):
    outcome = doctest.testmod(module, extraglobs={"keras": keras, "tf": tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0


def learner(optimizer, metrics=()):
    """Makes a compiled learner with the same initial weights every time."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.Dense(5, activation="tanh")(keras.layers.Flatten()(image))
    encoder, names = keras.Model(image, features), ["a", "b", "c"]
    model = daso_tf.Supervised(encoder, K, class_names=names, **STATISTICS)
    model.compile(optimizer, metrics=list(metrics), jit_compile=False)
    return model


def batches(first, steps):
    def batch(step):
        rng = np.random.default_rng(step)
        images = rng.integers(0, 256, (2, 6, SIZE, SIZE, 3), dtype=np.uint8)
        return (images[0], images[1]), rng.integers(0, K, 6)

    drawn = [batch(step) for step in range(first, first + steps)]
    arrays = tf.nest.map_structure(lambda *parts: np.stack(parts), *drawn)
    return tf.data.Dataset.from_tensor_slices(arrays)


def everything(model):
    variables = [*model.network_weights, *model.ema_network_weights, model.step]
    return [np.array(v) for v in [*variables, *optimizer_variables(model.optimizer)]]


def assert_resumes_exactly(make_optimizer, directory):
    """Trains 4 steps, saves, and trains 3 more, directly and from the checkpoint."""
    model, resumed = (learner(make_optimizer()) for _ in range(2))
    model.fit(batches(0, 4), verbose=0)
    Checkpoints(directory).save(model)
    assert Checkpoints(directory).restore(resumed)
    for twin in (model, resumed):
        twin.fit(batches(4, 3), verbose=0)
    assert int(model.step) == int(resumed.step) == 7
    for ours, theirs in zip(everything(model), everything(resumed), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return model


@pytest.mark.parametrize("name", ["sgdw", "adamw", "lamb", "lookahead_sgd"])
def test_a_run_resumes_exactly(name, tmp_path):
    assert_resumes_exactly(lambda: made(name)[0], tmp_path)


def cyclical():
    return addons.optimizers.Triangular2CyclicalLearningRate(0.01, 0.1, step_size=3)


def wrapped(wrapper, **arguments):
    def make():
        inner = keras.optimizers.legacy.SGD(cyclical(), momentum=0.9)
        return getattr(addons.optimizers, wrapper)(inner, **arguments)

    return make


@needs_addons
@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: addons.optimizers.SGDW(1e-3, cyclical(), momentum=0.9, nesterov=True),
        lambda: addons.optimizers.AdamW(1e-3, cyclical()),
        lambda: addons.optimizers.LAMB(cyclical()),
        wrapped("Lookahead", sync_period=3),
        wrapped("MovingAverage"),
        wrapped("SWA", start_averaging=1, average_period=2),
    ],
    ids=["SGDW", "AdamW", "LAMB", "Lookahead", "MovingAverage", "SWA"],
)
def test_optimizers_and_schedules_of_addons_train_save_resume_and_export(make_optimizer, tmp_path):
    model = assert_resumes_exactly(make_optimizer, tmp_path / "checkpoints")
    model.export(tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    images = next(iter(batches(9, 1)))[0][0]
    np.testing.assert_allclose(
        serve(images=images)["probabilities"], model.predict(images, verbose=0), atol=1e-6
    )


@needs_addons
def test_metrics_of_addons_measure_training_and_evaluation():
    """They equal those of scikit-learn on the images that are evaluated."""
    from sklearn.metrics import cohen_kappa_score, f1_score, matthews_corrcoef

    of_addons = [
        addons.metrics.CohenKappa(K, sparse_labels=True),
        metrics.OneHotLabels(addons.metrics.MatthewsCorrelationCoefficient(K)),
        metrics.OneHotLabels(addons.metrics.F1Score(K, average="macro")),
    ]
    names = ["cohen_kappa", "MatthewsCorrelationCoefficient", "f1_score"]
    model = learner(keras.optimizers.SGD(0.1), of_addons)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    labels = rng.choice(K, 40, p=np.array(COUNTS) / np.sum(COUNTS))
    validation = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    history = model.fit(batches(0, 5), validation_data=validation, verbose=0).history
    predicted = model.predict(images, verbose=0).argmax(axis=1)
    truth = [
        cohen_kappa_score(labels, predicted),
        matthews_corrcoef(labels, predicted),
        f1_score(labels, predicted, average="macro", labels=range(K)),
    ]
    for name, value in zip(names, truth, strict=True):
        assert np.isfinite(history[name]).all()
        assert history[f"val_{name}"][-1] == pytest.approx(value, abs=1e-5)
