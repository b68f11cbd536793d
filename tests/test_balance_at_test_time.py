"""Logit adjustment at test time: in all predictions of a learner, and never twice in results."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf.run.results import evaluate

COUNTS = [40, 20, 5]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def learner(**arguments):
    image = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(image)
    keras.utils.set_random_seed(0)
    model = daso_tf.FixMatch(keras.Model(image, features), 3, **STATISTICS, **arguments)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def adjusted():
    return learner(test_logit_adjustment=0.5, labeled_counts=COUNTS)


@pytest.fixture(scope="module")
def expected(images):
    """The same network's probabilities, adjusted in NumPy."""
    logits = learner().ema_logits(tf.constant(images)).numpy().astype(np.float64)
    return softmax(logits - 0.5 * np.log(np.array(COUNTS) / 65))


def test_prediction_and_evaluation_are_adjusted(adjusted, images, expected):
    np.testing.assert_allclose(adjusted.predict(images, verbose=0), expected, rtol=1e-5)
    labels = np.arange(20) % 3
    results = adjusted.evaluate(images, labels, verbose=0, return_dict=True)
    loss = -np.mean(np.log(expected[np.arange(20), labels]))
    assert results["loss"] == pytest.approx(loss, rel=1e-5)
    assert results["accuracy"] == pytest.approx(np.mean(expected.argmax(axis=1) == labels))


def test_saved_and_exported_models_predict_adjusted(adjusted, images, expected, tmp_path):
    adjusted.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), expected, rtol=1e-5)
    adjusted.export(tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    answer = serve(images=tf.constant(images))
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-5)
    np.testing.assert_array_equal(answer["class_ids"], expected.argmax(axis=1))


def test_training_is_not_adjusted(images):
    models = learner(), learner(test_logit_adjustment=1.0, labeled_counts=COUNTS)
    for model in models:
        model.train_on_batch((images[:6], images[6:]), np.arange(6) % 3)
    for ours, theirs in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_results_undo_the_adjustment_of_the_predictions(tau):
    rng = np.random.default_rng(1)
    labels, logits = rng.integers(0, 3, 200), rng.normal(size=(200, 3)).astype(np.float32)
    prior = np.log(np.array(COUNTS) / 65)
    plain = evaluate(labels, softmax(logits), np.array(COUNTS))
    undone = evaluate(labels, softmax(logits - tau * prior), np.array(COUNTS), tau)
    calibration, of_undone = plain.pop("calibration"), undone.pop("calibration")
    assert of_undone["log_loss"] == pytest.approx(calibration["log_loss"], rel=1e-5)
    assert plain == undone
    assert plain["accuracy"] != plain["logit_adjusted"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_logit_adjustment": -1.0}, "test_logit_adjustment must be at least 0, not -1.0"),
        ({"test_logit_adjustment": 1.0}, "needs labeled_counts"),
        ({"test_logit_adjustment": 1.0, "labeled_counts": [3, 2]}, "of the 3 classes, not 2"),
        ({"test_logit_adjustment": 1.0, "labeled_counts": [3, 2, 0]}, "at least 1 for every"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        learner(**arguments)
