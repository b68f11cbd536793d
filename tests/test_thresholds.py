"""Thresholds against plain NumPy statements of their equations, and their place in a learner."""

import doctest
import importlib
import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train
from dense_learner import K, assert_saved_and_resumed_exactly, dense_learner, train
from numpy_statements import softmax

import daso_tf
from daso_tf import thresholds

IMAGES = 50


def batches(count, size=20):
    """Yields predictions of growing confidence for random images."""
    rng = np.random.default_rng(3)
    for step in range(count):
        target = rng.dirichlet(np.full(K, 0.9 / (1 + step)), size).astype(np.float32)
        yield target, rng.choice(IMAGES, size, replace=False)


def test_fixed():
    for target, _ in batches(3):
        mask = thresholds.FixedThreshold(0.8)(tf.constant(target)).weights
        np.testing.assert_array_equal(mask, target.max(axis=1) >= np.float32(0.8))


def test_flexmatch():
    threshold = thresholds.FlexMatchThreshold(IMAGES, confidence=0.8)
    learned = np.full(IMAGES, -1)
    masks = []
    for target, positions in batches(12):
        counts = np.array([(learned == k).sum() for k in range(-1, K)])
        status = counts[1:] / counts.max()
        least = 0.8 * status / (2 - status)
        labels, confidence = target.argmax(axis=1), target.max(axis=1)
        mask = threshold(tf.constant(target), positions=tf.constant(positions)).weights.numpy()
        np.testing.assert_array_equal(mask, confidence >= least[labels].astype(np.float32))
        sure = confidence >= np.float32(0.8)
        learned[positions[sure]] = labels[sure]
        masks.append(mask.mean())
    assert masks[0] == 1  # no class is learned yet, so all thresholds are 0
    assert min(masks) < 1


def test_freematch():
    threshold = thresholds.FreeMatchThreshold(momentum=0.7)
    mean_confidence, mean_target = 1 / K, np.full(K, 1 / K)
    for target, _ in batches(8):
        mean_confidence = 0.7 * mean_confidence + 0.3 * target.max(axis=1).mean()
        mean_target = 0.7 * mean_target + 0.3 * target.mean(axis=0)
        least = mean_target / mean_target.max() * mean_confidence
        mask = threshold(tf.constant(target)).weights
        np.testing.assert_allclose(threshold.class_thresholds(), least, rtol=1e-5)
        np.testing.assert_array_equal(mask, target.max(axis=1) >= least[target.argmax(axis=1)])


def fairness(strong, mask, mean_target, histogram):
    """The fairness loss, over the classes that at least one taught view is predicted as."""
    p = softmax(strong)[mask > 0]
    taken = np.bincount(p.argmax(axis=1), minlength=K) / len(p)
    there = taken > 0
    of_strong = p.mean(axis=0)[there] / taken[there]
    of_weak = mean_target / histogram
    return np.sum((of_weak / of_weak.sum())[there] * np.log(of_strong / of_strong.sum()))


def test_freematch_fairness_loss_and_its_gradient():
    rng = np.random.default_rng(5)
    threshold = thresholds.FreeMatchThreshold(momentum=0.7, fairness_weight=0.5)
    mean_target, histogram = np.full((2, K), 1 / K)
    for target, _ in batches(4):
        threshold(tf.constant(target))
        mean_target = 0.7 * mean_target + 0.3 * target.mean(axis=0)
        taken = np.bincount(target.argmax(axis=1), minlength=K) / len(target)
        histogram = 0.7 * histogram + 0.3 * taken
    compiled = tf.function(threshold.auxiliary_losses, jit_compile=True)
    for absent in (-9, 0):  # without and with views that are predicted as the last class
        strong = rng.normal(size=(8, K)) + np.array([0, 0, absent])
        mask = np.array([1, 1, 0, 1, 1, 1, 0, 1])
        logits = tf.constant(strong)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = threshold.auxiliary_losses(logits, tf.constant(mask))["fairness_loss"]
        expected = 0.5 * fairness(strong, mask, mean_target, histogram)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        under_xla = compiled(logits, tf.constant(mask))["fairness_loss"]
        assert float(under_xla) == pytest.approx(expected, rel=1e-5)
        gradient = tape.gradient(loss, logits).numpy()
        for index in np.ndindex(*strong.shape):
            nudge = np.zeros_like(strong)
            nudge[index] = 1e-5
            ahead, behind = (
                fairness(strong + sign * nudge, mask, mean_target, histogram) for sign in (1, -1)
            )
            assert gradient[index] == pytest.approx(0.5 * (ahead - behind) / 2e-5, abs=1e-6)


def test_freematch_fairness_loss_is_0_if_nothing_is_taught():
    threshold = thresholds.FreeMatchThreshold()
    threshold.build((None, K))
    logits = tf.zeros((2, K))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = threshold.auxiliary_losses(logits, tf.zeros(2))["fairness_loss"]
    assert float(loss) == 0
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_softmatch():
    weight = thresholds.SoftMatchWeight(momentum=0.7, deviations=2)
    mean, variance = 1 / K, 1.0
    for target, _ in batches(8):
        confidence = target.max(axis=1)
        mean = 0.7 * mean + 0.3 * confidence.mean()
        variance = 0.7 * variance + 0.3 * confidence.var(ddof=1)
        expected = np.where(
            confidence >= mean, 1, np.exp(-((confidence - mean) ** 2) / (2 * variance / 4))
        )
        np.testing.assert_allclose(weight(tf.constant(target)).weights, expected, rtol=1e-4)


def test_adsh():
    threshold = thresholds.ADSHThreshold([3, 9, 1], IMAGES, confidence=0.8)
    remembered = {}
    masks = []
    for target, positions in batches(12):
        of_class = {
            k: sorted((c for c, label in remembered.values() if label == k)) for k in range(K)
        }
        head = of_class[1]
        sure = sum(c >= np.float32(0.8) for c in head)
        least = np.full(K, np.float32(0.8))
        for k in (0, 2):
            taught = math.ceil(Fraction(sure, max(len(head), 1)) * len(of_class[k]))
            if taught:
                least[k] = of_class[k][-taught]
        labels, confidence = target.argmax(axis=1), target.max(axis=1)
        mask = threshold(tf.constant(target), positions=tf.constant(positions)).weights.numpy()
        np.testing.assert_array_equal(mask, confidence >= least[labels])
        remembered.update(zip(positions, zip(confidence, labels, strict=True), strict=True))
        np.testing.assert_array_equal(
            sorted(threshold.confidences.numpy())[-len(remembered) :],
            sorted(c for c, _ in remembered.values()),
        )
        masks.append((mask != (confidence >= np.float32(0.8))).any())
    assert any(masks)  # it is not the fixed threshold


def test_saw():
    weight = thresholds.SAWWeight(IMAGES, confidence=0.8)
    remembered = np.full(IMAGES, -1)
    for target, positions in batches(12):
        target *= np.array([9, 1, 0.1], np.float32)  # imbalanced
        target /= target.sum(axis=1, keepdims=True)
        counts = np.maximum([(remembered == k).sum() for k in range(K)], 1)
        beta = (IMAGES / K - 1) / (IMAGES / K)
        weights = (1 - beta) / (1 - beta**counts)
        weights *= K / weights.sum()
        labels = target.argmax(axis=1)
        expected = (target.max(axis=1) >= np.float32(0.8)) * weights[labels]
        ours = weight(tf.constant(target), positions=tf.constant(positions)).weights
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
        remembered[positions] = labels
    assert weights.max() > 1.5 * weights.min()


ALL = [
    thresholds.FixedThreshold(0.7),
    thresholds.FlexMatchThreshold(IMAGES, 0.7),
    thresholds.FreeMatchThreshold(0.9),
    thresholds.SoftMatchWeight(0.9, 1.5),
    thresholds.ADSHThreshold([3, 9, 1], IMAGES, 0.7),
    thresholds.SAWWeight(IMAGES, 0.7),
]


@pytest.mark.parametrize("threshold", ALL, ids=lambda layer: type(layer).__name__)
def test_config_round_trip_and_xla_give_the_same_weights(threshold):
    config = keras.saving.serialize_keras_object(threshold)
    ours, theirs = (keras.saving.deserialize_keras_object(config) for _ in range(2))
    for layer in (ours, theirs):
        layer.build((None, K))
    compiled = tf.function(lambda *args: theirs(*args), jit_compile=True)
    for target, positions in batches(3):
        target, positions = tf.constant(target), tf.constant(positions, tf.int64)
        weights = [layer(target, None, positions).weights for layer in (ours, compiled)]
        np.testing.assert_allclose(*weights, rtol=1e-5)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: thresholds.FixedThreshold(1.1), r"confidence must be in \[0, 1\], not 1.1"),
        (lambda: thresholds.FlexMatchThreshold(0), "num_images must be at least 1, not 0"),
        (lambda: thresholds.FlexMatchThreshold(2.5), "num_images must be a whole number of at"),
        (lambda: thresholds.FlexMatchThreshold(float("nan")), "num_images must .* 1, not nan"),
        (lambda: thresholds.FreeMatchThreshold(0.9, -1), "fairness_weight must be at least 0"),
        (lambda: thresholds.FreeMatchThreshold(1.0), r"momentum must be in \[0, 1\), not 1.0"),
        (lambda: thresholds.SoftMatchWeight(0.9, 0.0), "deviations must be above 0, not 0.0"),
        (lambda: thresholds.SoftMatchWeight(0.9, np.inf), "must be above 0 and finite, not inf"),
        (lambda: thresholds.SAWWeight(0), "num_images must be at least 1, not 0"),
        (lambda: thresholds.ADSHThreshold([2, 1], 0), "num_images must be at least 1, not 0"),
        (lambda: thresholds.ADSHThreshold([2, 0], 9), "at least 1 for every class, not"),
        (lambda: thresholds.SAWWeight(9)(tf.ones((2, K)) / K), "SAWWeight needs the positions"),
        (
            lambda: thresholds.ADSHThreshold([2, 1], 9).build((None, 3)),
            "one number for each of the 3 classes, not 2",
        ),
    ],
)
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "name", ["threshold", "flexmatch", "freematch", "softmatch", "adsh", "saw"]
)
def test_examples(name):
    module = importlib.import_module(f"daso_tf.thresholds.{name}")
    outcome = doctest.testmod(module, extraglobs={"tf": tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("threshold", ALL[1:], ids=lambda layer: type(layer).__name__)
def test_fixmatch_saves_it_and_resumes_exactly(threshold, tmp_path):
    config = keras.saving.serialize_keras_object(threshold)
    copy = keras.saving.deserialize_keras_object(config)
    model = dense_learner(threshold=copy)
    before = [np.array(weight) for weight in copy.weights]
    assert_saved_and_resumed_exactly(model, tmp_path / "model.keras")
    after = [np.array(weight) for weight in copy.weights]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("old", [0.6, thresholds.SoftMatchWeight(0.9, 1.5)])
@pytest.mark.parametrize("learner", [daso_tf.FixMatch, daso_tf.DASO, daso_tf.PseudoLabel])
def test_the_old_name_of_the_argument_still_works(learner, old):
    """Until version 0.1 it was `confidence_threshold`, in calls and in saved configs."""
    model = dense_learner(learner, confidence_threshold=old)
    config = model.get_config()
    expected = config.pop("threshold")
    assert model.threshold.confidence == 0.6 if old == 0.6 else model.threshold is old
    again = learner.from_config({**config, "confidence_threshold": expected})
    assert again.get_config()["threshold"] == expected


def test_fixmatch_minimises_the_loss_of_a_threshold():
    with_it, without = (
        dense_learner(threshold=thresholds.FreeMatchThreshold(0.5, weight)) for weight in (0.5, 0.0)
    )
    losses = train(with_it, 0, 1).losses
    assert set(losses) == {"supervised_loss", "consistency_loss", "fairness_loss"}
    assert "fairness_loss" in {metric.name for metric in with_it.metrics}
    assert float(losses["fairness_loss"]) < 0
    train(without, 0, 1)
    assert any(
        (np.array(a) != np.array(b)).any()
        for a, b in zip(with_it.network_weights, without.network_weights, strict=True)
    )


def test_the_command_provides_positions(tmp_path):
    run = arguments(threshold="flexmatch", model_dir=tmp_path / "run", steps=2, evaluate_every=2)
    assert run_train(*run) == 0


def test_learners_without_a_threshold_refuse_it():
    with pytest.raises(ValueError, match="FixedThreshold does not go with MixMatch: it"):
        dense_learner(daso_tf.MixMatch, threshold=0.9)


def test_the_command_refuses_it_for_other_learners(tmp_path, capsys):
    run = arguments(threshold="softmatch", learner="mixmatch", model_dir=tmp_path / "run")
    assert run_train(*run) == 2
    assert "--threshold=softmatch does not go with --learner=mixmatch" in capsys.readouterr().err
