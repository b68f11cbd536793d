"""Small parts of a step against NumPy: losses, moving average, metrics per class."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from daso_tf.step import losses, network
from daso_tf.step.metrics import BalancedAccuracy, ClassStatistics, OneHotLabels


def log_softmax(x):
    return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


def test_cross_entropy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    ours = losses.cross_entropy(tf.constant(labels), tf.constant(logits))
    np.testing.assert_allclose(ours, -log_softmax(logits)[np.arange(6), labels], rtol=1e-12)


def test_consistency_divides_by_all_images():
    """Equation 4 of FixMatch: the masked sum over mu * B, and its gradient."""
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(8, 3)), rng.integers(0, 3, 8)
    taught = np.array([0, 0, 1, 1, 0.5, 1, 0, 0.25])
    strong = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(strong)
        loss = losses.consistency(tf.constant(labels), tf.constant(taught), strong)
    entropies = -log_softmax(logits)[np.arange(8), labels]
    np.testing.assert_allclose(loss, np.sum(taught * entropies) / 8, rtol=1e-12)
    gradient = taught[:, None] * (np.exp(log_softmax(logits)) - np.eye(3)[labels]) / 8
    np.testing.assert_allclose(tape.gradient(loss, strong), gradient, atol=1e-12)


def test_ema_decay_rises_from_0():
    steps = np.array([0, 1, 9, 98, 999, 1000, 10**6])
    ours = [float(network.decay_at(tf.constant(step), 0.999)) for step in steps]
    np.testing.assert_allclose(ours, np.minimum(1 - 1 / (steps + 1), 0.999), rtol=1e-6)


def test_ema_update_skips_variables_that_are_not_floating_point():
    average = [tf.Variable([1.0, 2.0]), tf.Variable([7], dtype=tf.int32)]
    variable = [tf.Variable([3.0, 6.0]), tf.Variable([9], dtype=tf.int32)]
    network.update(average, variable, tf.constant(0.75))
    np.testing.assert_allclose(average[0], [1.5, 3.0])
    np.testing.assert_array_equal(average[1], [7])


def test_class_statistics_against_scikit_learn():
    rng = np.random.default_rng(2)
    true, predicted = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    statistics = ClassStatistics(5, name="final")
    for part in range(0, 200, 50):
        statistics.update_state(true[part : part + 50], predicted[part : part + 50])
    per_class = statistics.per_class()
    np.testing.assert_allclose(per_class["recall"], recall_score(true, predicted, average=None))
    precision = precision_score(true, predicted, average=None)
    np.testing.assert_allclose(per_class["precision"], precision, rtol=1e-6)
    np.testing.assert_array_equal(per_class["predicted"], np.bincount(predicted, minlength=5))
    result = {name: float(value) for name, value in statistics.result().items()}
    assert result == pytest.approx(
        {
            "final_recall": recall_score(true, predicted, average="macro"),
            "final_precision": precision_score(true, predicted, average="macro"),
        }
    )


def test_unknown_classes_and_missing_predictions_are_not_counted():
    statistics = ClassStatistics(3)
    statistics.update_state(tf.constant([0, -1, 1, 2]), tf.constant([0, 0, -1, 0]))
    per_class = statistics.per_class()
    np.testing.assert_array_equal(per_class["true"], [1, 1, 1])
    np.testing.assert_array_equal(per_class["predicted"], [2, 0, 0])
    np.testing.assert_array_equal(per_class["assigned"], [3, 0, 0])
    np.testing.assert_array_equal(per_class["recall"], [1, 0, 0])
    np.testing.assert_array_equal(per_class["precision"], [0.5, np.nan, np.nan])
    statistics.reset_state()
    assert np.isnan(statistics.per_class()["recall"]).all()


def test_balanced_accuracy_against_scikit_learn():
    rng = np.random.default_rng(3)
    true = np.array([0] * 50 + [1] * 5 + [3] * 2)  # class 2 has no image
    predicted = rng.integers(0, 4, len(true))
    metric = BalancedAccuracy(4)
    metric.update_state(true, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of the predictions of class 2
        expected = balanced_accuracy_score(true, predicted)
    assert float(metric.result()) == pytest.approx(expected)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert again.num_classes == 4


def test_metrics_of_one_hot_labels_accept_class_numbers():
    rng = np.random.default_rng(5)
    labels, probabilities = rng.integers(0, 4, 60), rng.dirichlet(np.ones(4), 60)
    metric = OneHotLabels(keras.metrics.F1Score(average="macro"))
    metric = OneHotLabels.from_config(metric.get_config())
    metric.update_state(labels[:10], probabilities[:10])
    metric.reset_state()
    metric.update_state(labels[:30], probabilities[:30])
    metric.update_state(labels[30:, None], probabilities[30:])
    expected = f1_score(labels, probabilities.argmax(axis=1), average="macro")
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
    assert metric.name == "f1_score"
