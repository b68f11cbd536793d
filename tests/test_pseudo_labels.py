"""Pseudo-labelers against plain NumPy statements of the paper's equations."""

from collections import deque

import keras
import numpy as np
import pytest
import tensorflow as tf

from daso_tf.platform import compiled
from daso_tf.pseudo_labels import (
    DASOPseudoLabeler,
    LinearPseudoLabeler,
    PrototypeClassifier,
    PseudoLabelDistribution,
)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def similarities(features, prototypes):
    def unit(x):
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)

    return unit(features) @ unit(prototypes).T


def classifier_with(queue_size, num_classes, num_features, temperature=0.05):
    classifier = PrototypeClassifier(queue_size, temperature)
    classifier.build([(None, num_classes), (None, num_features)])
    return classifier


@pytest.mark.parametrize("by_xla", [False, True])
@pytest.mark.parametrize(("queue_size", "batch"), [(1, 5), (3, 8), (4, 20), (64, 6)])
def test_queue_keeps_the_last_features_of_each_class(queue_size, batch, by_xla):
    """Against one deque per class: several images of a class, more than Q of them, none at all."""
    rng = np.random.default_rng(queue_size)
    classifier = classifier_with(queue_size, num_classes=4, num_features=3)
    push = tf.function(classifier.push, jit_compile=True) if by_xla else classifier.push
    expected = [deque(maxlen=queue_size) for _ in range(4)]
    for _ in range(6):
        features = rng.normal(size=(batch, 3)).astype(np.float32)
        labels = rng.integers(0, 3, batch).astype(np.int32)  # class 3 never occurs
        push(tf.constant(features), tf.constant(labels))
        for feature, label in zip(features, labels, strict=True):
            expected[label].append(feature)
        means = [np.mean(queue, axis=0) if queue else np.zeros(3) for queue in expected]
        np.testing.assert_allclose(classifier.prototypes(), means, rtol=1e-5, atol=1e-6)
    assert not np.asarray(classifier.prototypes())[3].any()


def test_prototypes_follow_whoever_sets_the_queues():
    """They are those of another classifier at once, bit for bit, though the counts stay equal."""
    rng = np.random.default_rng(0)
    first, second = (classifier_with(5, num_classes=9, num_features=7) for _ in range(2))
    labels = rng.integers(0, 8, (6, 12))  # class 8 never occurs
    for classifier in (first, second):
        for of_batch in labels:
            features = rng.normal(size=(12, 7)).astype(np.float32)
            classifier.push(tf.constant(features), tf.constant(of_batch))
            classifier.prototypes()
    before = second.prototypes().numpy()
    second.set_weights(first.get_weights())
    assert (second.prototypes().numpy() != before)[:8].all()
    np.testing.assert_array_equal(second.prototypes(), first.prototypes())
    total = tf.reduce_sum(tf.convert_to_tensor(first.features), axis=1)
    filled = np.clip(np.bincount(labels.ravel(), minlength=9), 1, 5).astype(np.float32)
    np.testing.assert_array_equal(first.prototypes(), total / filled[:, None])
    with compiled.whole(True):
        by_xla = tf.function(first.prototypes, jit_compile=True)()
    np.testing.assert_allclose(by_xla, first.prototypes(), rtol=1e-5, atol=1e-6)


def test_means_are_not_saved():
    classifier = classifier_with(2, num_classes=3, num_features=4)
    assert [tuple(weight.shape) for weight in classifier.weights] == [(3, 2, 4), (3,)]


def test_similarity_to_a_class_never_seen_is_zero():
    classifier = classifier_with(2, num_classes=2, num_features=3, temperature=0.5)
    classifier.push(tf.constant([[0.0, 2.0, 0.0]]), tf.constant([0]))
    logits = classifier(tf.constant([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(logits, [[2.0, 0.0], [0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queue_size": 0}, "queue_size must be at least 1, not 0"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0, not nan"),
    ],
)
def test_prototype_classifier_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PrototypeClassifier(**arguments)


def test_distribution_refuses():
    with pytest.raises(ValueError, match="period must be at least 1, not 0"):
        PseudoLabelDistribution(0)


def test_distribution_is_in_force_after_each_window():
    rng = np.random.default_rng(0)
    distribution = PseudoLabelDistribution(period=3)
    distribution.build((None, 5))
    window, in_force = np.zeros(5), np.zeros(5)
    for step in range(10):
        np.testing.assert_array_equal(distribution.in_force, in_force)
        labels = rng.integers(0, 5, 7)
        distribution.count(tf.constant(labels), tf.constant(step))
        window += np.bincount(labels, minlength=5)
        if step % 3 == 2:
            window, in_force = np.zeros(5), window


@pytest.mark.parametrize("temperature", [0.3, 1.5])
def test_tempered_distribution(temperature):
    distribution = PseudoLabelDistribution(period=1)
    distribution.build((None, 3))
    np.testing.assert_array_equal(distribution.tempered(temperature), [0, 0, 0])
    distribution.count(tf.constant([0, 0, 0, 0, 2]), tf.constant(0))
    expected = np.array([1.0, 0.0, 0.25]) ** (1 / temperature)
    np.testing.assert_allclose(distribution.tempered(temperature), expected, rtol=1e-6)


def test_linear_pseudo_labels():
    logits = np.array([[1.0, 3.0, 0.0], [2.0, -1.0, 0.5]], np.float32)
    labels = LinearPseudoLabeler()(tf.nn.softmax(logits), tf.zeros((2, 4)), step=0)
    np.testing.assert_array_equal(labels.linear, [1, 0])
    np.testing.assert_array_equal(labels.final, [1, 0])
    np.testing.assert_array_equal(labels.semantic, [-1, -1])
    np.testing.assert_allclose(labels.target, softmax(logits), rtol=1e-6)
    np.testing.assert_allclose(labels.confidence, softmax(logits).max(axis=1), rtol=1e-6)


def filled_labeler(rng, **arguments):
    """Returns a labeler with filled queues and a histogram in force, and its prototypes."""
    labeler = DASOPseudoLabeler(
        **{"queue_size": 4, "pretrain_steps": 2, "distribution_period": 1, **arguments}
    )
    labeler.build([(None, 3), (None, 5)])
    features = rng.normal(size=(12, 5)).astype(np.float32)
    labels = np.repeat([0, 1, 2], 4)
    labeler.observe(tf.constant(features), tf.constant(labels))
    counted = labeler(
        tf.constant(np.eye(3, dtype=np.float32)[[0, 0, 0, 1]]), tf.zeros((4, 5)), step=0
    )
    labeler.update(counted, tf.constant(0))
    return labeler, features.reshape(3, 4, 5).mean(axis=1)


@pytest.mark.parametrize(
    ("arguments", "class_weights"),
    [
        ({"distribution_temperature": 1.5}, np.array([1.0, 1 / 3, 0.0]) ** (1 / 1.5)),
        ({"distribution_temperature": 0.3}, np.array([1.0, 1 / 3, 0.0]) ** (1 / 0.3)),
        ({"distribution_aware": False, "blend_weight": 0.3}, np.full(3, 0.3)),
    ],
)
def test_blend(arguments, class_weights):
    rng = np.random.default_rng(1)
    labeler, prototypes = filled_labeler(rng, prototype_temperature=0.2, **arguments)
    logits = rng.normal(size=(20, 3)).astype(np.float32)
    features = rng.normal(size=(20, 5)).astype(np.float32)
    labels = labeler(tf.nn.softmax(logits), tf.constant(features), step=2)

    linear, semantic = softmax(logits), softmax(similarities(features, prototypes) / 0.2)
    weight = class_weights[linear.argmax(axis=1)][:, None]
    expected = (1 - weight) * linear + weight * semantic
    np.testing.assert_allclose(labels.target, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(labels.linear, linear.argmax(axis=1))
    np.testing.assert_array_equal(labels.semantic, semantic.argmax(axis=1))
    np.testing.assert_array_equal(labels.final, expected.argmax(axis=1))
    np.testing.assert_allclose(labels.confidence, expected.max(axis=1), rtol=1e-4)


def test_pretraining_is_linear_and_aligns_nothing():
    rng = np.random.default_rng(2)
    labeler, _ = filled_labeler(rng, distribution_aware=False, blend_weight=1.0)
    logits = tf.constant(rng.normal(size=(6, 3)), tf.float32)
    features = tf.constant(rng.normal(size=(6, 5)), tf.float32)
    pretraining = labeler(tf.nn.softmax(logits), features, step=1)
    np.testing.assert_array_equal(pretraining.final, pretraining.linear)
    np.testing.assert_array_equal(pretraining.semantic, np.full(6, -1))
    assert float(labeler.auxiliary_losses(features, -features, step=1)["alignment_loss"]) == 0
    assert float(labeler.auxiliary_losses(features, -features, step=2)["alignment_loss"]) > 0


def test_nothing_is_blended_until_a_histogram_is_in_force():
    labeler = DASOPseudoLabeler(pretrain_steps=0)
    labeler.build([(None, 3), (None, 5)])
    logits = tf.constant([[1.0, 2.0, 0.5]])
    labels = labeler(tf.nn.softmax(logits), tf.ones((1, 5)), step=0)
    np.testing.assert_allclose(labels.target, softmax(logits.numpy()), rtol=1e-6)


def test_alignment_loss_and_its_gradient():
    """The value against NumPy; the gradient flows to the strong features only."""
    rng = np.random.default_rng(3)
    labeler, prototypes = filled_labeler(rng, prototype_temperature=0.5, alignment_weight=0.7)
    weak = tf.constant(rng.normal(size=(4, 5)), tf.float32)
    strong = tf.constant(rng.normal(size=(4, 5)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([weak, strong])
        loss = labeler.auxiliary_losses(weak, strong, step=5)["alignment_loss"]
    to_weak, to_strong = tape.gradient(loss, [weak, strong])

    def plain(strong):
        targets = softmax(similarities(weak.numpy().astype(np.float64), prototypes) / 0.5)
        log_probabilities = np.log(softmax(similarities(strong, prototypes) / 0.5))
        return -0.7 * np.mean(np.sum(targets * log_probabilities, axis=1))

    strong64 = strong.numpy().astype(np.float64)
    np.testing.assert_allclose(loss, plain(strong64), rtol=1e-5)
    assert to_weak is None
    for index in np.ndindex(strong64.shape):
        step = np.zeros_like(strong64)
        step[index] = 1e-5
        difference = (plain(strong64 + step) - plain(strong64 - step)) / 2e-5
        assert abs(float(to_strong[index]) - difference) < 1e-4


def test_no_gradient_flows_through_pseudo_labels():
    labeler, _ = filled_labeler(np.random.default_rng(4))
    logits, features = tf.constant([[1.0, 2.0, 0.0]]), tf.ones((1, 5))
    with tf.GradientTape() as tape:
        tape.watch([logits, features])
        confidence = labeler(tf.nn.softmax(logits), features, step=2).confidence
    assert tape.gradient(confidence, [logits, features]) == [None, None]


def test_histogram_counts_final_labels_of_any_confidence():
    labeler = DASOPseudoLabeler(pretrain_steps=5, distribution_period=1)
    labeler.build([(None, 2), (None, 3)])
    unsure = labeler(tf.nn.softmax([[0.1, 0.0], [0.0, 0.1], [0.0, 0.2]]), tf.ones((3, 3)), step=0)
    labeler.update(unsure, tf.constant(0))
    np.testing.assert_array_equal(labeler.distribution.in_force, [1, 2])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("distribution_temperature", 0.0),
        ("prototype_temperature", -1.0),
        ("blend_weight", 1.5),
        ("alignment_weight", -0.1),
        ("pretrain_steps", -1),
        ("distribution_period", 0),
        ("queue_size", 0),
    ],
)
def test_daso_refuses_arguments_outside_their_range(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must be .*, not {value}"):
        DASOPseudoLabeler(**{argument: value})


def test_config_round_trip():
    labeler = DASOPseudoLabeler(3, 0.1, 0.3, False, 0.2, 0.5, 7, 9, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(labeler))
    assert again.get_config() == labeler.get_config()
    assert again.get_config()["queue_size"] == 3
