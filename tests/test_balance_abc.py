"""The auxiliary balanced classifier: its losses, its masks and its place in a learner."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from dense_learner import (
    COUNTS,
    D,
    K,
    assert_compiles_to_the_same,
    assert_saved_and_resumed_exactly,
    dense_learner,
    train,
)

import daso_tf
from daso_tf.balance import ABC, abc
from daso_tf.balance.balanced_head import Features
from daso_tf.pseudo_labels import DASOPseudoLabeler, LinearPseudoLabeler


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))


def linear(probabilities):
    return LinearPseudoLabeler()(probabilities, tf.zeros((len(probabilities), D)), step=0)


@pytest.fixture
def problem():
    """Features, labels and draws of a step, and a kernel that is confident of some images."""
    rng = np.random.default_rng(0)
    features = Features(*(rng.normal(size=(count, D)) for count in (6, 12, 12)))
    return features, rng.integers(0, K, 6), rng.uniform(size=18), 2 * rng.normal(size=(D, K))


def plain_loss(features, labels, draws, kernel, part):
    """The paper's losses in NumPy."""
    labeled, weak, strong = (log_softmax(view @ kernel) for view in features)
    balanced = np.min(COUNTS) / np.array(COUNTS)
    kept = draws[:6] < balanced[labels]
    classification = np.sum(kept * -labeled[np.arange(6), labels]) / 6
    p = np.exp(weak)
    rates = 1 - part * (1 - balanced)
    kept = (p.max(axis=1) >= 0.7) & (draws[6:] < rates[p.argmax(axis=1)])
    assert 0 < kept.sum() < 12
    return classification + np.sum(kept * -np.sum(p * strong, axis=1)) / 12


@pytest.mark.parametrize(("step", "part"), [(0, 0.0), (39, 0.3), (95, 0.9), (1000, 1.0)])
def test_loss(problem, step, part):
    features, labels, draws, kernel = problem
    component = ABC(COUNTS, total_steps=100, confidence_threshold=0.7, update_every=30)
    single = [tf.constant(view, tf.float32) for view in features]
    loss = component.loss(
        lambda views: views @ tf.constant(kernel, tf.float32),
        linear,
        Features(*single),
        tf.constant(labels),
        tf.constant(draws, tf.float32),
        tf.constant(step),
    )
    assert float(loss) == pytest.approx(plain_loss(*problem, part), rel=1e-5)


def test_gradient_reaches_the_features_but_not_through_the_weak_view(problem):
    features, labels, draws, kernel = problem
    component = ABC(COUNTS, total_steps=100, confidence_threshold=0.7)
    single = [tf.constant(view, tf.float32) for view in features]
    with tf.GradientTape() as tape:
        tape.watch(single)
        loss = component.loss(
            lambda views: views @ tf.constant(kernel, tf.float32),
            linear,
            Features(*single),
            tf.constant(labels),
            tf.constant(draws, tf.float32),
            tf.constant(0),
        )
    to_labeled, to_weak, to_strong = tape.gradient(loss, single)
    assert not np.any(to_weak)
    for place, gradient in ((0, to_labeled), (2, to_strong)):
        for index in np.ndindex(*gradient.shape):
            moved = [[view.copy() for view in features] for _ in range(2)]
            for views, nudge in zip(moved, (1e-6, -1e-6), strict=True):
                views[place][index] += nudge
            ahead, behind = (plain_loss(views, labels, draws, kernel, 0.0) for views in moved)
            assert float(gradient[index]) == pytest.approx((ahead - behind) / 2e-6, abs=1e-5)


def test_masks_balance_the_classes():
    """The fraction of the images of each class that count, over many draws."""
    component = ABC([100, 50, 10], total_steps=100, confidence_threshold=0.0, update_every=1)
    draws = daso_tf.platform.draws.uniform(
        [3, 4], daso_tf.platform.draws.BALANCED_LABELED, 60_000, 1
    )
    labels = np.arange(30_000) % 3
    # The head predicts a uniform distribution, so the loss of each image that counts is log 3.
    features = Features(*(tf.zeros((30_000, 1)) for _ in range(3)))
    for k, expected in enumerate([0.1, 0.2, 1.0]):
        of_class = Features(*(view[labels == k] for view in features))

        def sure(probabilities, k=k):
            return linear(tf.one_hot(tf.fill([len(probabilities)], k), 3))

        loss = component.loss(
            lambda views: tf.zeros((len(views), 3)),
            sure,
            of_class,
            tf.fill([10_000], k),
            draws[k * 20_000 : (k + 1) * 20_000, 0],
            tf.constant(50),
        )
        rates = expected + (1 + expected) / 2  # labeled; unlabeled halfway through the run
        assert float(loss) / np.log(3) == pytest.approx(rates, abs=0.02)


def test_head_learns_and_predicts_instead_of_the_classifier():
    model = dense_learner(balanced_head=ABC(COUNTS, total_steps=10))
    before = [np.array(weight) for weight in model.balanced_classifier.weights]
    losses = train(model, 0, 3).losses
    assert set(losses) == {"supervised_loss", "consistency_loss", "abc_loss"}
    assert all((old != np.array(new)).any() for old, new in zip(
        before, model.balanced_classifier.weights, strict=True))  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    features = model.ema_encoder(model.as_input(tf.constant(images)))
    expected = tf.nn.softmax(model.ema_balanced_classifier(features))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5)
    assert np.abs(expected - tf.nn.softmax(model.ema_classifier(features))).max() > 1e-3


def test_pseudo_labels_of_the_head_are_not_counted():
    """DASO blends for both classifiers; its histogram counts those of the first one only."""
    labeler = DASOPseudoLabeler(pretrain_steps=0, distribution_period=100)
    model = dense_learner(pseudo_labeler=labeler, balanced_head=ABC(COUNTS, total_steps=10))
    losses = train(model, 0, 2).losses
    assert {"abc_loss", "alignment_loss"} < set(losses)
    assert np.sum(labeler.distribution.counted) == 2 * 12


def test_draws_depend_on_step_and_seed():
    def loss_of(seed, step):
        head = ABC(COUNTS, total_steps=10, confidence_threshold=0.0)
        model = dense_learner(balanced_head=head, seed=seed)
        random = np.random.default_rng(0).normal(size=(3, 30, D))
        features = Features(*tf.constant(random, tf.float32))
        labels = tf.zeros(30, tf.int32)
        return float(model.balanced_losses(features, labels, tf.constant(step))["abc_loss"])

    assert loss_of(1, 5) == loss_of(1, 5)
    assert len({loss_of(1, 5), loss_of(1, 6), loss_of(2, 5)}) == 3


@pytest.mark.parametrize("labeler", [None, DASOPseudoLabeler(queue_size=3, pretrain_steps=1)])
def test_saved_and_resumed_exactly(labeler, tmp_path):
    head = ABC(COUNTS, total_steps=10, confidence_threshold=0.5, update_every=2)
    model = dense_learner(pseudo_labeler=labeler, balanced_head=head)
    assert_saved_and_resumed_exactly(model, tmp_path / "model.keras")


def test_compiled_step_computes_the_same():
    """With LDAM, whose weights change during the run."""
    assert_compiles_to_the_same(
        lambda: dense_learner(
            balanced_head=ABC(COUNTS, total_steps=4, confidence_threshold=0.3, update_every=1),
            supervised_loss=daso_tf.balance.LDAMLoss(COUNTS, reweight_after=1),
        )
    )


def test_config_round_trip():
    head = ABC(COUNTS, total_steps=10, confidence_threshold=0.5, update_every=2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert again.get_config() == head.get_config()


def test_remixmatch_has_the_head_too():
    model = dense_learner(
        daso_tf.ReMixMatch,
        balanced_head=ABC(COUNTS, total_steps=10),
        strong=keras.layers.Identity(),
        weak=keras.layers.Identity(),
    )
    assert {"abc_loss", "rotation_loss"} < {metric.name for metric in model.metrics}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labeled_counts": [3, 0]}, "at least 1 for every class"),
        ({"total_steps": 0}, "total_steps must be at least 1, not 0"),
        ({"update_every": 0}, "update_every must be at least 1, not 0"),
        ({"confidence_threshold": 1.1}, r"confidence_threshold must be in \[0, 1\], not 1.1"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ABC(**{"labeled_counts": COUNTS, "total_steps": 10, **arguments})


@pytest.mark.parametrize(
    ("learner", "arguments", "message"),
    [
        (daso_tf.MixMatch, {}, "ABC does not go with MixMatch: it has no consistency loss"),
        (
            daso_tf.FixMatch,
            {"pseudo_labeler": daso_tf.pseudo_labels.AlignedPseudoLabeler(COUNTS)},
            "ABC does not go with AlignedPseudoLabeler: it remembers",
        ),
        (daso_tf.FixMatch, {"balanced_head": ABC([2, 1], 10)}, "ABC is for 2 classes, not 3"),
    ],
)
def test_impossible_combinations_are_refused(learner, arguments, message):
    with pytest.raises(ValueError, match=message):
        dense_learner(learner, **{"balanced_head": ABC(COUNTS, 10), **arguments})


def test_docstring_example():
    outcome = doctest.testmod(abc, extraglobs={"tf": tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0
