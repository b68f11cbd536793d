"""CoSSL: the balanced classifier's loss, its pseudo-labels and its place in a learner."""

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
    step_inputs,
    train,
)
from numpy_statements import log_softmax, softmax

import daso_tf
from daso_tf.balance import CoSSL, cossl
from daso_tf.balance.balanced_head import Features
from daso_tf.pseudo_labels import AlignedPseudoLabeler

SHARE = 0.4


@pytest.fixture
def problem():
    """Features, labels and draws of a step, and a classifier's kernel."""
    rng = np.random.default_rng(0)
    features = Features(*(rng.normal(size=(count, D)) for count in (6, 4, 4)))
    return features, np.array([0, 1, 1, 2, 2, 2]), rng.uniform(size=10), rng.normal(size=(D, K))


def plain_loss(features, labels, draws, kernel):
    """The mean over images drawn from balanced classes, with blended tail features."""
    counts = np.array(COUNTS)
    total = 0
    for i, label in enumerate(labels):
        feature, rate = features.labeled[i], (counts.max() - counts[label]) / counts.max()
        if draws[i] < rate:
            share = 1 - (1 - SHARE) * draws[i] / rate
            assert SHARE <= share <= 1
            feature = share * feature + (1 - share) * features.strong[i % 4]
        drawn = (1 / K) / (counts[label] / counts.sum())
        total -= drawn * log_softmax(feature @ kernel)[label]
    return total / len(labels)


def loss_of(features, labels, draws, kernel):
    return CoSSL(COUNTS, 10, SHARE).loss(
        lambda views: views @ kernel,
        None,
        features,
        tf.constant(labels),
        tf.constant(draws, tf.float32),
        tf.constant(0),
    )


def test_loss_and_its_gradient(problem):
    features, labels, draws, kernel = problem
    single = Features(*(tf.constant(view, tf.float32) for view in features))
    weights = tf.constant(kernel, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([*single, weights])
        loss = loss_of(single, labels, draws, weights)
    assert float(loss) == pytest.approx(plain_loss(*problem), rel=1e-5)
    *to_features, to_kernel = tape.gradient(loss, [*single, weights])
    assert to_features == [None] * 3  # the head does not train the encoder
    for index in np.ndindex(*kernel.shape):
        nudge = np.zeros_like(kernel)
        nudge[index] = 1e-6
        ahead, behind = (plain_loss(*problem[:3], kernel + sign * nudge) for sign in (1, -1))
        assert float(to_kernel[index]) == pytest.approx((ahead - behind) / 2e-6, abs=1e-5)


def test_shares_are_uniform_and_blend_rates_are_those_of_the_classes():
    """With labeled features of 1 and others of 0, the blended feature is the share."""
    count = 30_000
    draws = daso_tf.platform.draws.uniform(
        [3, 4], daso_tf.platform.draws.BALANCED_LABELED, count, 1
    )
    labels = np.arange(count) % K
    kept = []

    def classifier(views):
        kept.append(views.numpy()[:, 0])
        return tf.zeros((len(views), K))

    features = Features(tf.ones((count, 1)), tf.zeros((9, 1)), tf.zeros((9, 1)))
    CoSSL(COUNTS, 10, SHARE).loss(classifier, None, features, labels, draws[:, 0], step=0)
    assert (kept[0][labels == 0] == 1).all()
    for k, rate in ((1, 1 - COUNTS[1] / COUNTS[0]), (2, 1 - COUNTS[2] / COUNTS[0])):
        blended = kept[0][(labels == k) & (kept[0] < 1)]
        assert len(blended) / (count / K) == pytest.approx(rate, abs=0.02)
        quartiles = np.quantile(blended, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(
            quartiles, SHARE + (1 - SHARE) * np.array([1, 2, 3]) / 4, atol=0.02
        )


def test_head_makes_the_pseudo_labels_from_teach_after_on():
    model = dense_learner(balanced_head=CoSSL(COUNTS, teach_after=2))
    for step in range(4):
        views, *_ = step_inputs(step)
        _, weak, _ = model.forward(*views)
        teacher = model.classifier if step < 2 else model.balanced_classifier
        expected = softmax(np.array(teacher(weak.features), np.float64))
        outcome = train(model, step, step + 1)
        np.testing.assert_allclose(outcome.pseudo_labels.target, expected, rtol=1e-4)
        assert set(outcome.losses) == {"supervised_loss", "consistency_loss", "cossl_loss"}


def test_head_predicts_instead_of_the_classifier():
    model = dense_learner(balanced_head=CoSSL(COUNTS, teach_after=2))
    train(model, 0, 2)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    features = model.ema_encoder(model.as_input(tf.constant(images)))
    expected = tf.nn.softmax(model.ema_balanced_classifier(features))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("labeler", [None, AlignedPseudoLabeler(COUNTS)])
def test_saved_and_resumed_exactly(labeler, tmp_path):
    """Also with a labeler that remembers predictions: it is called once per step."""
    model = dense_learner(pseudo_labeler=labeler, balanced_head=CoSSL(COUNTS, 2, 0.3))
    assert_saved_and_resumed_exactly(model, tmp_path / "model.keras")


def test_compiled_step_computes_the_same():
    assert_compiles_to_the_same(
        lambda: dense_learner(balanced_head=CoSSL(COUNTS, 1), threshold=0.3)
    )


def test_head_makes_the_pseudo_labels_of_remixmatch():
    model = dense_learner(
        daso_tf.ReMixMatch,
        balanced_head=CoSSL(COUNTS, 0),
        strong=daso_tf.augment.RandAugment(num_ops=0, cutout=2),
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    views = model.make_views(images[:4], images[4:], tf.constant([0, 0]))
    weak, _ = model.forward(views.weak, views.strong)
    expected = np.argmax(model.balanced_classifier(weak.features), axis=1)
    outcome = model.compute_losses(views, tf.constant([0, 1, 2, 0]))
    np.testing.assert_array_equal(outcome.pseudo_labels.final, expected)
    assert "cossl_loss" in outcome.losses


def test_config_round_trip():
    head = CoSSL(COUNTS, 5, 0.3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert again.get_config() == head.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labeled_counts": [3, 0]}, "at least 1 for every class"),
        ({"teach_after": -1}, "teach_after must be at least 0, not -1"),
        ({"least_share": 1.1}, r"least_share must be in \[0, 1\], not 1.1"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoSSL(**{"labeled_counts": COUNTS, "teach_after": 10, **arguments})


def test_docstring_example():
    outcome = doctest.testmod(cossl)
    assert outcome.attempted > 0
    assert outcome.failed == 0
