"""SimPro, ADELLO, ACR and CDMAD: what they are combined with, and the settings that they brought.

Their equations are compared with recordings of the authors' code (`test_recordings.py`).
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, completed, run_train
from dense_learner import COUNTS, SIZE, UNLABELED, K, dense_learner, step_inputs

import daso_tf
from daso_tf import data
from daso_tf.balance import ABC, ACR, LogitAdjustedLoss
from daso_tf.data.long_tail import ORDERS, class_counts
from daso_tf.learners import FixMatchTwoViews, FixMatchViews
from daso_tf.pseudo_labels import (
    ADELLOPseudoLabeler,
    CDMADPseudoLabeler,
    DASOPseudoLabeler,
    SimProPseudoLabeler,
)
from daso_tf.settings import combinations
from daso_tf.settings.combinations import refusals
from daso_tf.settings.optimizers import Adam, Cosine, learning_rate
from daso_tf.settings.settings import presets

STRONG = {"strong": daso_tf.augment.RandAugment(num_ops=0, cutout=2)}
LABELERS = {
    "simpro": lambda: SimProPseudoLabeler(COUNTS),
    "adello": lambda: ADELLOPseudoLabeler(COUNTS, total_steps=10),
    "cdmad": CDMADPseudoLabeler,
}


# Combinations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("labeler", LABELERS)
@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("supervised_loss", LogitAdjustedLoss(COUNTS), "LogitAdjustedLoss"),
        ("balanced_head", ABC(COUNTS, total_steps=9), "ABC"),
        ("balanced_head", ACR(COUNTS), "ACR"),
        ("threshold", daso_tf.thresholds.FreeMatchThreshold(), "FreeMatchThreshold"),
        ("test_logit_adjustment", 1.0, "test_logit_adjustment"),
    ],
)
def test_two_rebalancers_are_refused_in_python(labeler, argument, value, named):
    part = LABELERS[labeler]()
    with pytest.raises(ValueError, match=r"does not go with .*: ") as refusal:
        dense_learner(pseudo_labeler=part, labeled_counts=COUNTS, **{argument: value})
    assert {named, type(part).__name__} <= set(re.findall(r"\w+", str(refusal.value)))


def test_acr_makes_the_pseudo_labels_itself():
    with pytest.raises(ValueError, match="DASOPseudoLabeler does not go with ACR: it makes"):
        dense_learner(pseudo_labeler=DASOPseudoLabeler(), balanced_head=ACR(COUNTS))


@pytest.mark.parametrize("labeler", LABELERS)
@pytest.mark.parametrize("balance", ["logit_adjustment", "test_logit_adjustment", "abc", "acr"])
def test_two_rebalancers_are_refused_by_the_command(labeler, balance):
    assert any("losses of its own" in r.reason for r in refusals("fixmatch", labeler, [balance]))


def test_command_names_both_flags(tmp_path, capsys):
    flags = {"pseudo_labeler": "simpro", "balanced_head": "acr", "model_dir": tmp_path / "run"}
    assert run_train(*arguments(**flags)) == 2
    assert (
        "--pseudo_labeler=simpro does not go with --balanced_head=acr: " in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("learner", ["pseudo_label", "mean_teacher", "mixmatch", "remixmatch"])
@pytest.mark.parametrize("labeler", ["simpro", "adello"])
def test_learners_without_their_losses_refuse_them(learner, labeler):
    assert list(refusals(learner, labeler))


def test_cdmad_goes_with_remixmatch():
    assert not list(refusals("remixmatch", "cdmad"))
    assert not list(refusals("fixmatch", "cdmad"))
    assert list(refusals("mixmatch", "cdmad"))


# What a learner does for them --------------------------------------------------------------------


def test_views_and_threshold_follow_the_method():
    learner = dense_learner(pseudo_labeler=CDMADPseudoLabeler(), **STRONG)
    assert learner.threshold.confidence == 0
    assert dense_learner().threshold.confidence == 0.95
    rows = [tf.zeros((count, SIZE, SIZE, 3), tf.uint8) for count in (2, 4)]
    for given, expected in (({}, FixMatchTwoViews), ({"strong_views": 1}, FixMatchViews)):
        labeler = SimProPseudoLabeler(COUNTS)
        learner = dense_learner(pseudo_labeler=labeler, **given, **STRONG)
        assert isinstance(learner.make_views(*rows, seed=tf.constant([0, 1])), expected)


def test_two_strong_views_are_different_and_the_first_stays_the_same():
    rng = np.random.default_rng(0)
    images = [tf.constant(rng.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)) for _ in range(2)]
    seed = tf.constant([0, 1])
    one = dense_learner(strong_views=1, **STRONG).make_views(*images, seed=seed)
    two = dense_learner(strong_views=2, **STRONG).make_views(*images, seed=seed)
    for before, now in zip(one, two, strict=False):
        np.testing.assert_array_equal(before, now)
    assert np.any(two.strong != two.second_strong)


def test_consistency_is_the_mean_over_the_strong_views():
    (views, labels, _), (others, *_) = step_inputs(0), step_inputs(1)
    learner = dense_learner(threshold=0.0)

    def loss(views):
        return float(learner.compute_losses(views, labels).losses["consistency_loss"])

    both = loss(FixMatchTwoViews(*views, others.strong))
    second = loss(views._replace(strong=others.strong))
    assert both == pytest.approx((loss(views) + second) / 2, rel=1e-5)


def test_predictions_are_without_the_bias():
    learner = dense_learner(pseudo_labeler=CDMADPseudoLabeler(), **STRONG)
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8))
    network = learner.network
    logits, bias = (
        learner.ema_classifier(network.ema_features(view, training=False))
        for view in (learner.as_input(images), tf.ones((1, SIZE, SIZE, 3)))
    )
    np.testing.assert_allclose(learner(images), tf.nn.softmax(logits - bias), rtol=1e-5)


def test_labeled_images_are_not_counted_in_the_estimates():
    labeler = ADELLOPseudoLabeler(COUNTS, total_steps=10, momentum=0.0, num_unlabeled=UNLABELED)
    assert dense_learner(pseudo_labeler=labeler).needs_positions
    assert dense_learner(balanced_head=ACR(COUNTS, num_unlabeled=3)).needs_positions
    assert not dense_learner(balanced_head=ACR(COUNTS)).needs_positions
    views, labels, _ = step_inputs(0)
    learner = dense_learner(pseudo_labeler=labeler)
    learner.compute_losses(views, labels, tf.range(UNLABELED, UNLABELED + 12))
    np.testing.assert_allclose(labeler.prior, [1 / K] * K, rtol=1e-6)
    outcome = learner.compute_losses(views, labels, tf.range(UNLABELED - 1, UNLABELED + 11))
    np.testing.assert_allclose(labeler.prior, outcome.pseudo_labels.target[0], rtol=1e-5)
    with pytest.raises(ValueError, match="needs the positions"):
        learner.compute_losses(views, labels)


# Data --------------------------------------------------------------------------------------------


def test_orders_of_the_unlabeled_classes():
    ranks = {order: class_counts(2**9, 2**9, 10, order=order).tolist() for order in ORDERS}
    counts = ranks["labeled"]
    assert ranks["reversed"] == counts[::-1]
    assert ranks["middle"] == [counts[r] for r in (8, 6, 4, 2, 0, 1, 3, 5, 7, 9)]
    assert ranks["head-tail"] == [counts[r] for r in (1, 3, 5, 7, 9, 8, 6, 4, 2, 0)]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"unlabeled_order": "odd"}, "must be one of labeled, reversed, middle, head-tail"),
        ({"unlabeled_order": "middle"}, "without unlabeled_head"),
        (
            {"unlabeled_order": "middle", "reverse_unlabeled": True, "unlabeled_head": 5},
            "give one of them",
        ),
    ],
)
def test_orders_without_sense_are_refused(settings, problem):
    with pytest.raises(data.DataError, match=problem):
        data.load("digits", labeled_head=5, **settings)


def test_labeled_images_among_the_unlabeled_ones():
    sizes = {"labeled_head": 10, "labeled_imbalance": 5, "unlabeled_head": 20, "resolution": 8}
    alone = data.load("digits", **sizes)
    both = data.load("digits", **sizes, labeled_among_unlabeled=True)
    count = len(alone.unlabeled)
    assert both.labeled_among_unlabeled == len(alone.labeled) == len(both.unlabeled) - count
    np.testing.assert_array_equal(both.unlabeled.images[:count], alone.unlabeled.images)
    np.testing.assert_array_equal(both.unlabeled.images[count:], alone.labeled.images)
    np.testing.assert_array_equal(both.unlabeled.labels[count:], alone.labeled.labels)
    assert (both.mean, both.std) == (alone.mean, alone.std)


# Optimization ------------------------------------------------------------------------------------


def test_cosine():
    schedule = learning_rate(0.5, cosine="fixmatch", cosine_steps=10)
    assert isinstance(schedule, Cosine)
    expected = 0.5 * np.cos(7 * np.pi * np.arange(11) / 160)
    np.testing.assert_allclose([schedule(step) for step in range(11)], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=re.escape("leave out its drops after steps [5]")):
        learning_rate(0.5, drops=[5], cosine="fixmatch", cosine_steps=10)


def test_adam_adds_epsilon_after_the_correction():
    variable, optimizer = tf.Variable([1.0, -2.0]), Adam(0.1, epsilon=0.01)
    weights, mean, square = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    optimizer.build([variable])
    for step, gradient in enumerate(([0.5, 1e-3], [-0.25, 2e-3], [0.0, -1e-3]), start=1):
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        gradient = np.array(gradient)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1 - 0.999**step))
        weights -= 0.1 * mean / (1 - 0.9**step) / (root + 0.01)
    np.testing.assert_allclose(variable, weights, rtol=1e-5)


def with_statistics(**settings):
    """Makes a learner with running statistics, and trains a step with a gradient of nearly 0."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.Dense(4)(keras.layers.Flatten()(image))
    features = daso_tf.encoders.BatchNormalization()(features)
    learner = daso_tf.FixMatch(
        keras.Model(image, features), K, mean=(0.5,) * 3, std=(0.25,) * 3, **settings
    )
    learner.compile(daso_tf.optimizers.SGD(1e-9), jit_compile=False)
    before = [np.array(weight) for weight in learner.network.weights]
    learner.train_on_views(*step_inputs(0))
    return learner, before


def test_decay_of_the_state_follows_the_average():
    learner, before = with_statistics(weight_decay=1e8, decayed="state", ema_decay=0.0)
    network = learner.network
    for average, weight in zip(network.ema_weights, network.weights, strict=True):
        np.testing.assert_allclose(weight, 0.9 * np.array(average), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(network.ema_weights[0], before[0], rtol=1e-5)


def test_decay_of_kernels():
    learner, before = with_statistics(weight_decay=1e8, decayed="kernels")
    for weight, old in zip(learner.network.weights, before, strict=True):
        if len(weight.shape) > 1:
            np.testing.assert_allclose(weight, 0.9 * old, rtol=1e-4)
        elif any(weight is trained for trained in learner.network.trainable_weights):
            np.testing.assert_allclose(weight, old, atol=1e-6)


def test_statistics_are_copied_and_the_decay_does_not_grow():
    learner, before = with_statistics(average_statistics=False, ema_warmup=False, ema_decay=0.5)
    trained = {id(weight) for weight in learner.network.trainable_weights}
    pairs = zip(learner.network.weights, learner.network.ema_weights, before, strict=True)
    for weight, average, old in pairs:
        new = np.array(weight)
        expected = (old + new) / 2 if id(weight) in trained else new
        np.testing.assert_allclose(average, expected, rtol=1e-6)


def test_raw_blocks_lack_a_norm():
    names = [
        {layer.name for layer in daso_tf.encoders.wide_resnet(10, 1, raw=raw).layers}
        for raw in (False, True)
    ]
    missing = {name for name in names[0] - names[1] if "norm" in name}
    assert missing == {"group2_block0_norm1", "group3_block0_norm1"}


# The values of COMPARED in the authors' commands; 0 unlabeled images of the head: all of them.
PUBLISHED = {
    "simpro_cifar10_lt": (500, 100, 4000, 100, 64, 8, 43_000, 0.17, 5e-4),
    "simpro_cifar100_lt": (50, 20, 400, 20, 64, 8, 43_000, 0.17, 5e-4),
    "simpro_stl10_lt": (450, 10, 0, 1, 64, 16, 43_000, 0.17, 5e-4),
    "adello_cifar10_lt": (1500, 100, 3000, 100, 64, 2, 262_144, 0.03, 5e-4),
    "adello_cifar100_lt": (150, 10, 300, 10, 64, 2, 262_144, 0.03, 5e-4),
    "adello_stl10_lt": (150, 10, 0, 1, 64, 2, 262_144, 0.03, 5e-4),
    "acr_cifar10_lt": (500, 100, 4000, 100, 64, 1, 250_000, 0.03, 5e-4),
    "acr_cifar100_lt": (50, 10, 400, 10, 64, 1, 250_000, 0.03, 5e-4),
    "acr_stl10_lt": (450, 10, 0, 1, 64, 1, 250_000, 0.03, 5e-4),
    "cdmad_cifar10_lt": (1500, 100, 3000, 100, 32, 2, 250_000, 0.0015, 0.04),
    "cdmad_cifar100_lt": (150, 10, 300, 10, 32, 2, 250_000, 0.0015, 0.08),
    "cdmad_stl10_lt": (450, 10, 0, 1, 32, 2, 250_000, 0.0015, 0.01),
    "cdmad_remixmatch_lt": (1500, 100, 3000, 100, 64, 2, 150_000, 0.002, 0.04),
}
COMPARED = (
    "labeled_head",
    "labeled_imbalance",
    "unlabeled_head",
    "unlabeled_imbalance",
    "batch_size",
    "unlabeled_ratio",
    "steps",
    "learning_rate",
    "weight_decay",
)
# What differs between data sets and learners.
OF_A_PRESET = {
    "simpro_cifar10_lt": {"simpro_tau": 2, "confidence_threshold": 0.95},
    "simpro_cifar100_lt": {"simpro_tau": 1, "confidence_threshold": 0.2},
    "simpro_stl10_lt": {"source_size": 32, "labeled_among_unlabeled": False},
    "adello_cifar10_lt": {"adello_distill_after": 50_000, "labeled_among_unlabeled": True},
    "adello_stl10_lt": {"adello_distill_after": 0, "labeled_among_unlabeled": True},
    "acr_cifar10_lt": {"labeled_among_unlabeled": True},
    "acr_stl10_lt": {"labeled_among_unlabeled": False},
    "cdmad_stl10_lt": {"labeled_among_unlabeled": True},
    "cdmad_remixmatch_lt": {
        "labeled_among_unlabeled": False,
        "learner": "remixmatch",
        "unlabeled_weight": 2,
        "premixup_weight": 0.5,
        "rotation_weight": 1,
        "ramp_fraction": 1,
        "mixup_beta": 0.75,
    },
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_presets_have_the_published_settings(name):
    settings = completed(f"--flagfile={name}.cfg")
    assert tuple(settings[key] for key in COMPARED) == PUBLISHED[name]
    special = OF_A_PRESET.get(name, {})
    assert {key: settings[key] for key in special} == special
    method = name.partition("_")[0]
    assert method in (settings.pseudo_labeler, settings.balanced_head)
    assert not settings.ema_warmup
    assert settings.decayed == ("state" if method == "cdmad" else "kernels")
    combinations.check(settings)


def test_every_preset_of_these_methods_is_compared():
    methods = ("simpro_", "adello_", "acr_", "cdmad_")
    assert {name.removesuffix(".cfg") for name in presets() if name.startswith(methods)} == set(
        PUBLISHED
    )
