"""DARP: the refined pseudo-labels and the memory of the layer."""

import doctest
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from dense_learner import (
    COUNTS,
    SIZE,
    UNLABELED,
    K,
    assert_saved_and_resumed_exactly,
    dense_learner,
    train,
)
from scipy.optimize import brentq, minimize

import daso_tf
from daso_tf.pseudo_labels import DARPPseudoLabeler, darp
from daso_tf.pseudo_labels.darp import refine


def predictions(count, num_classes=K, seed=0):
    return np.random.default_rng(seed).dirichlet(np.linspace(1.5, 0.5, num_classes), count)


def without_noise(p, images, alpha):
    """Step (a) of the algorithm: class k is kept for its most likely images, scaled."""
    kept = np.zeros(p.shape)
    for k in reversed(range(p.shape[1])):
        likeliest = np.argsort(-p[:, k])[: int(alpha * images[k])]
        scale = (images[k] + 1e-6) / (p[likeliest, k].sum() + 1e-6)
        kept[likeliest, k] = p[likeliest, k] * scale
    kept += 1e-6
    return kept / kept.sum(axis=1, keepdims=True)


def scaled_by_turns(p, images, alpha, iterations):
    """The whole algorithm; the equation of each column is solved by bisection."""
    p = without_noise(p, images, alpha)
    entropy = -np.sum(p * np.log(p), axis=1)
    y = np.ones(p.shape)
    for _ in range(iterations):
        x = 1 / np.sum(p / np.e * y, axis=1)
        for k in range(p.shape[1]):
            share = p[:, k] / np.e * x

            def excess(nu, share=share, k=k):
                return np.sum(share * np.exp(-nu * entropy)) - images[k]

            y[:, k] = np.exp(-brentq(excess, -200, 200, xtol=1e-12) * entropy)
    x = 1 / np.sum(p / np.e * y, axis=1)
    return p / np.e * x[:, None] * y


@pytest.mark.parametrize("distribution", [[6, 3, 1], [1, 3, 6], [1, 1, 1]])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_refined_by_the_algorithm_of_the_paper(distribution, alpha):
    p = predictions(60)
    images = 60 * np.array(distribution) / np.sum(distribution)
    expected = scaled_by_turns(p, images, alpha, iterations=10)
    np.testing.assert_allclose(refine(p, distribution, alpha), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("distribution", [[6, 3, 1], [1, 3, 6], [1, 1, 1]])
def test_refined_labels_have_the_marginals(distribution):
    refined = refine(predictions(500), distribution)
    np.testing.assert_allclose(refined.sum(axis=1), 1, rtol=1e-12)
    images = 500 * np.array(distribution) / np.sum(distribution)
    np.testing.assert_allclose(refined.sum(axis=0), images, rtol=2e-3)


def test_refined_labels_diverge_least_from_the_predictions():
    """Many rounds reach the optimum, here the solution of the dual problem."""
    images = np.array([10.0, 20.0, 30.0])
    p = without_noise(predictions(60), images, alpha=2.0)
    weight = -1 / np.sum(p * np.log(p), axis=1, keepdims=True)

    def dual(nu):
        scaled = p * np.exp(-nu / weight)
        total = scaled.sum(axis=1, keepdims=True)
        return np.sum(weight * np.log(total)) + nu @ images, images - np.sum(scaled / total, axis=0)

    nu = minimize(dual, np.zeros(3), jac=True, options={"gtol": 1e-9}).x
    best = p * np.exp(-nu / weight)
    best /= best.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(refine(predictions(60), images, iterations=300), best, atol=1e-5)


def test_labels_with_the_marginals_stay_unchanged():
    p = predictions(50)
    np.testing.assert_allclose(refine(p, p.sum(axis=0), alpha=1e3), p, atol=1e-4)


def test_class_keeps_at_most_alpha_times_its_images():
    refined = refine(predictions(100), [80, 15, 5], alpha=2.0)
    taken = np.sum(refined > 1e-3, axis=0)
    assert (taken <= [100, 30, 10]).all() and taken[2] == 10


def test_classes_without_images_and_certain_predictions():
    certain = np.repeat(np.eye(3), [5, 4, 1], axis=0)
    refined = refine(certain, [6, 4, 0])
    assert np.isfinite(refined).all()
    np.testing.assert_allclose(refined.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(refined[:9], certain[:9], atol=1e-3)


def labeler_for(**settings):
    settings = {"num_images": 6, "start_step": 4, "period": 2, **settings}
    labeler = DARPPseudoLabeler([3, 2, 1], **settings)
    labeler.build([(None, 3), (None, 5)])
    return labeler


def taught(labeler, p, step, positions):
    inputs = tf.constant(p, tf.float32), tf.zeros((len(p), 5))
    return labeler(*inputs, step=tf.constant(step), positions=tf.constant(positions, tf.int64))


def test_latest_predictions_are_refined_every_period_and_looked_up_between():
    labeler, latest, refined = labeler_for(), np.full((6, 3), 1 / 3), None
    rng = np.random.default_rng(0)
    for step in range(9):
        positions, p = rng.permutation(6)[:4], predictions(4, seed=step)
        latest[positions] = p
        labels = taught(labeler, p, step, positions)
        if step in (4, 6, 8):
            refined = refine(latest, [3, 2, 1])
        expected = p if step < 4 else refined[positions]
        np.testing.assert_allclose(labels.target, expected, atol=1e-5)
        np.testing.assert_array_equal(labels.linear, p.argmax(axis=1))
        np.testing.assert_array_equal(labels.final, expected.argmax(axis=1))
        np.testing.assert_array_equal(labels.semantic, [-1] * 4)
        np.testing.assert_allclose(labeler.predictions, latest, atol=1e-7)


def test_image_that_occurs_twice_is_remembered_by_its_first_view():
    labeler, p = labeler_for(), predictions(4)
    taught(labeler, p, 0, [2, 5, 2, 1])
    np.testing.assert_allclose(np.array(labeler.predictions)[[2, 5, 1]], p[[0, 1, 3]], rtol=1e-6)


def test_no_gradient_flows_through():
    labeler, p = labeler_for(start_step=0), tf.constant(predictions(4), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(p)
        target = labeler(p, tf.zeros((4, 5)), step=0, positions=tf.range(4)).target
    assert tape.gradient(target, p) is None


def test_saved_and_resumed_exactly(tmp_path):
    labeler = DARPPseudoLabeler(COUNTS, UNLABELED, start_step=1, period=4)
    model = dense_learner(pseudo_labeler=labeler, threshold=0.4)
    assert_saved_and_resumed_exactly(model, tmp_path / "model.keras")
    assert float(train(model, 6, 7).losses["consistency_loss"]) > 0


def test_batches_provide_the_positions_that_the_labeler_asks_for():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8)
    data = daso_tf.data.from_arrays(images[:4], [0, 1, 2, 0], images[4:])
    labeler = DARPPseudoLabeler(COUNTS, UNLABELED, start_step=2, period=1)
    model = dense_learner(daso_tf.MeanTeacher, pseudo_labeler=labeler)
    assert model.needs_positions and not dense_learner().needs_positions
    batches = functools.partial(
        daso_tf.data.training_batches,
        data,
        batch_size=2,
        unlabeled_ratio=2,
        seed=0,
        steps=3,
        **model.batch_arguments,
    )
    model.fit(batches(), verbose=0)
    seen = np.concatenate([batch[2] for batch, _ in batches().as_numpy_iterator()])
    changed = np.any(np.array(labeler.predictions) != np.float32(1 / 3), axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), np.sort(seen))


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="with_positions=True"):
        labeler_for()(tf.ones((1, 3)) / 3, tf.zeros((1, 5)), step=0)
    with pytest.raises(ValueError, match="has 3 classes, the predictions 2"):
        DARPPseudoLabeler([3, 2, 1], 6).build([(None, 2), (None, 5)])
    model = dense_learner(pseudo_labeler=DARPPseudoLabeler(COUNTS, UNLABELED))
    with pytest.raises(ValueError, match="jit_compile=True: DARP refines pseudo-labels on the"):
        model.compile(keras.optimizers.SGD(0.1), jit_compile=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_distribution": [3]}, "two classes or more"),
        ({"class_distribution": [3, -1]}, "at least 0 for each"),
        ({"class_distribution": [3, float("nan")]}, "at least 0 for each"),
        ({"num_images": 0}, "num_images must be at least 1, not 0"),
        ({"start_step": -1}, "start_step must be at least 0, not -1"),
        ({"period": 0}, "period must be at least 1, not 0"),
        ({"period": 2.5}, "period must be a whole number of at least 1, not 2.5"),
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
        ({"alpha": 0.0}, "alpha must be above 0, not 0.0"),
        ({"alpha": np.inf}, "alpha must be above 0 and finite, not inf"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DARPPseudoLabeler(**{"class_distribution": [2, 1], "num_images": 3, **arguments})


def test_config_round_trip():
    labeler = DARPPseudoLabeler(np.array([3, 2]), 5, 7, 2, 1.5, 4, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(labeler))
    assert again.get_config() == labeler.get_config()
    assert again.get_config()["iterations"] == 4


def test_docstring_examples():
    outcome = doctest.testmod(darp, extraglobs={"tf": tf, "np": np})
    assert outcome.attempted > 0
    assert outcome.failed == 0
