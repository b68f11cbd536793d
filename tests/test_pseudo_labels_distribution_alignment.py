"""Distribution alignment against a plain NumPy statement, and its fixed points."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from daso_tf.pseudo_labels import AlignedPseudoLabeler, DistributionAlignment


def predictions(rng, batch, num_classes=4):
    return rng.dirichlet(np.linspace(0.5, 2, num_classes), batch)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("compiled", [False, True])
def test_alignment_by_the_mean_of_the_last_batches(temperature, compiled):
    rng = np.random.default_rng(0)
    counts = np.array([40, 20, 10, 5])
    alignment = DistributionAlignment(counts.tolist(), temperature, window=3)
    align = tf.function(alignment, jit_compile=True) if compiled else alignment
    means = []
    for _ in range(8):
        p = predictions(rng, 6)
        means = [*means, p.mean(axis=0)][-3:]
        target = counts**temperature / np.sum(counts**temperature)
        expected = p * (target + 1e-6) / (np.mean(means, axis=0) + 1e-6)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(align(tf.constant(p, tf.float32)), expected, rtol=2e-5)


def test_predictions_with_the_target_distribution_stay_unchanged():
    rng = np.random.default_rng(1)
    p = predictions(rng, 50)
    alignment = DistributionAlignment(p.mean(axis=0))
    for _ in range(3):
        np.testing.assert_allclose(alignment(p), p, rtol=1e-5)


def test_repeated_alignment_converges_to_the_target_distribution():
    """Predictions that are aligned repeatedly, each time by their own mean."""
    p, target = predictions(np.random.default_rng(2), 400), np.array([0.4, 0.3, 0.2, 0.1])
    alignment = DistributionAlignment(target, window=1)
    for _ in range(300):
        p = alignment(p)
    np.testing.assert_allclose(np.mean(p, axis=0), target, atol=2e-4)


def test_classes_without_share_or_prediction_are_finite():
    aligned = DistributionAlignment([1.0, 1.0, 0.0])(tf.constant([[1.0, 0.0, 0.0]] * 2))
    np.testing.assert_allclose(aligned, [[1, 0, 0]] * 2)


def test_pseudo_labels_are_the_aligned_prediction():
    p = tf.constant([[0.6, 0.4], [0.9, 0.1]])
    labeler = AlignedPseudoLabeler([1, 1])
    labeler.build([(None, 2), (None, 3)])
    labels = labeler(p, tf.zeros((2, 3)), step=0)
    aligned = DistributionAlignment([1, 1])(p).numpy()
    np.testing.assert_array_equal(labels.target, aligned)
    np.testing.assert_array_equal(labels.linear, [0, 0])
    np.testing.assert_array_equal(labels.semantic, [-1, -1])
    np.testing.assert_array_equal(labels.final, [1, 0])
    np.testing.assert_array_equal(labels.confidence, aligned.max(axis=1))


def test_no_gradient_flows_through():
    p = tf.constant([[0.6, 0.4]])
    with tf.GradientTape() as tape:
        tape.watch(p)
        aligned = DistributionAlignment([1, 1])(p)
    assert tape.gradient(aligned, p) is None


@pytest.mark.parametrize("layer", [DistributionAlignment, AlignedPseudoLabeler])
def test_config_round_trip(layer):
    made = layer(np.array([3, 2, 1]), 0.5, 16, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert again.get_config() == made.get_config()
    assert again.get_config()["window"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3],), "two classes or more"),
        (([3, -1],), "at least 0 for each"),
        (([0, 0],), "not all of them 0"),
        (([1, float("nan")],), "at least 0 for each"),
        (([1, 1], 1.5), r"temperature must be in \[0, 1\], not 1.5"),
        (([1, 1], 1.0, 0), "window must be at least 1, not 0"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DistributionAlignment(*arguments)


def test_distribution_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="has 3 classes, the predictions 2"):
        DistributionAlignment([1, 1, 1])(tf.constant([[0.5, 0.5]]))


@pytest.mark.parametrize("module", ["distribution_alignment"])
def test_docstring_examples(module):
    module = importlib.import_module(f"daso_tf.pseudo_labels.{module}")
    outcome = doctest.testmod(module, extraglobs={"tf": tf, "np": np})
    assert outcome.attempted > 0
    assert outcome.failed == 0
