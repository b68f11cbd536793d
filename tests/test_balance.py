"""Supervised losses against plain NumPy statements of their equations."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from daso_tf import balance
from daso_tf.balance.logit_adjustment import adjusted

COUNTS = [40, 20, 10, 5]
WEIGHTS = (1 - 0.9) / (1 - 0.9 ** np.array(COUNTS))
WEIGHTS *= 4 / np.sum(WEIGHTS)
LOSSES = [
    balance.SupervisedLoss(),
    balance.LogitAdjustedLoss(COUNTS, 0.3),
    balance.ClassBalancedLoss(COUNTS, beta=0.9),
    balance.LDAMLoss(COUNTS, max_margin=0.4, scale=3.0, reweight_after=5, beta=0.9),
]


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))


def cross_entropy(labels, logits):
    return -log_softmax(logits)[np.arange(len(labels)), labels]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return np.array([0, 1, 2, 3, 0, 1]), rng.normal(size=(6, 4))


def assert_costs(loss, batch, expected, step=0):
    labels, logits = batch
    assert float(loss(labels, tf.constant(logits), step)) == pytest.approx(expected, rel=1e-12)


def test_supervised_loss_is_the_mean_cross_entropy(batch):
    assert_costs(balance.SupervisedLoss(), batch, np.mean(cross_entropy(*batch)))


def test_logit_adjustment_adds_the_prior(batch):
    labels, logits = batch
    adjusted = logits + 0.5 * np.log(np.array(COUNTS) / np.sum(COUNTS))
    expected = np.mean(cross_entropy(labels, adjusted))
    assert_costs(balance.LogitAdjustedLoss(COUNTS, tau=0.5), batch, expected)


@pytest.mark.parametrize("tau", [1.0, -0.5])
def test_adjusted_logits(batch, tau):
    _, logits = batch
    expected = logits - tau * np.log(np.array(COUNTS) / np.sum(COUNTS))
    np.testing.assert_allclose(adjusted(logits, COUNTS, tau), expected, rtol=1e-12)
    single = tf.constant(logits, tf.float32)
    np.testing.assert_allclose(adjusted(single, COUNTS, tau), expected, rtol=1e-5)
    assert adjusted(single, COUNTS, tau).dtype == tf.float32


def test_class_balanced_weights_the_loss_of_each_image(batch):
    """Equation 3 of the paper, in a plain mean over the batch."""
    expected = np.mean(WEIGHTS[batch[0]] * cross_entropy(*batch))
    assert_costs(balance.ClassBalancedLoss(COUNTS, beta=0.9), batch, expected)


@pytest.mark.parametrize(
    ("beta", "weights"), [(0.0, np.ones(4)), (1 - 1e-9, (1 / np.array(COUNTS)) * 4 / 0.375)]
)
def test_beta_0_gives_equal_weights_and_beta_1_inverse_frequencies(beta, weights, batch):
    expected = np.mean(weights[batch[0]] * cross_entropy(*batch))
    loss = balance.ClassBalancedLoss(COUNTS, beta)
    assert float(loss(batch[0], tf.constant(batch[1]), 0)) == pytest.approx(expected, rel=1e-6)


def test_ldam_subtracts_margins_and_later_weighs_classes(batch):
    labels, logits = batch
    loss = balance.LDAMLoss(COUNTS, max_margin=0.4, scale=3.0, reweight_after=5, beta=0.9)
    margins = 0.4 * (5 / np.array(COUNTS)) ** 0.25
    np.testing.assert_allclose(loss.margins, margins, rtol=1e-12)
    own = np.eye(4)[labels]
    costs = cross_entropy(labels, 3 * (logits - own * margins))
    assert_costs(loss, batch, np.mean(costs), step=4)
    expected = np.sum(WEIGHTS[labels] * costs) / np.sum(WEIGHTS[labels])
    assert_costs(loss, batch, expected, step=5)


def test_ldam_is_exact_for_very_confident_predictions():
    logits = np.array([[3.0, -3.0, -3.0, -3.0]], np.float32)
    loss = balance.LDAMLoss([5, 5, 5, 5], scale=30)  # every margin 0.5
    expected = np.log1p(3 * np.exp(-30 * 5.5))
    assert float(loss(np.array([0]), tf.constant(logits), 0)) == pytest.approx(expected, abs=1e-30)
    expected = 30 * 6.5  # class 0 is certain
    assert float(loss(np.array([1]), tf.constant(logits), 0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("step", [0, 5])
def test_soft_labels(loss, batch, step):
    """The loss of a mixed image is linear in its soft label, up to the division by the weights."""
    hard, logits = batch
    soft = np.random.default_rng(1).dirichlet(np.ones(4), 6)
    of_class = np.stack(
        [[float(loss([k], tf.constant(row[None]), step)) for k in range(4)] for row in logits]
    )
    late_ldam = isinstance(loss, balance.LDAMLoss) and step >= loss.reweight_after
    weights = soft * (WEIGHTS if late_ldam else 1)
    assert_costs(loss, (soft, logits), np.sum(weights * of_class) / np.sum(weights), step)
    assert_costs(
        loss, (np.eye(4)[hard], logits), float(loss(hard, tf.constant(logits), step)), step
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("step", [0, 5])
def test_gradients(loss, batch, step):
    labels, logits = batch
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        cost = loss(labels, logits, step)
    gradient = tape.gradient(cost, logits).numpy()
    for index in np.ndindex(gradient.shape):
        nudge = np.zeros(gradient.shape)
        nudge[index] = 1e-5
        ahead, behind = (float(loss(labels, logits + sign * nudge, step)) for sign in (1, -1))
        assert gradient[index] == pytest.approx((ahead - behind) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_config_round_trip(loss, batch):
    labels, logits = batch
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
    logits = tf.constant(logits)
    assert float(again(labels, logits, 5)) == float(loss(labels, logits, 5))


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        ("LogitAdjustedLoss", {"labeled_counts": [3, 2, 1, 0]}, "at least 1 for every class, not"),
        ("ClassBalancedLoss", {"labeled_counts": [3, 0]}, "at least 1 for every class, not"),
        ("LDAMLoss", {"labeled_counts": [3]}, "two classes or more"),
        ("LogitAdjustedLoss", {"tau": 0.0}, "tau must be above 0, not 0.0"),
        ("ClassBalancedLoss", {"beta": 1.0}, r"beta must be in \[0, 1\), not 1.0"),
        ("LDAMLoss", {"beta": -0.1}, r"beta must be in \[0, 1\), not -0.1"),
        ("LDAMLoss", {"max_margin": 0.0}, "max_margin must be above 0, not 0.0"),
        ("LDAMLoss", {"scale": float("nan")}, "scale must be above 0, not nan"),
        ("LDAMLoss", {"reweight_after": -1}, "reweight_after must be at least 0, not -1"),
        ("LDAMLoss", {"reweight_after": 1.5}, "reweight_after must be a whole number of at"),
        ("ClassBalancedLoss", {"labeled_counts": [3, 1.5]}, "at least 1 for every class, not"),
    ],
)
def test_arguments_outside_their_range_are_refused(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(balance, loss)(**{"labeled_counts": [3, 2], **arguments})


@pytest.mark.parametrize(
    "module", ["class_balanced", "ldam", "logit_adjustment", "supervised_loss"]
)
def test_docstring_examples(module):
    module = importlib.import_module(f"daso_tf.balance.{module}")
    outcome = doctest.testmod(module, extraglobs={"tf": tf, "np": np})
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("before", "now"),
    [("of_every_class", "class_losses"), ("weight_of_every_class", "class_weights")],
)
def test_a_loss_with_a_method_of_version_0_1_is_refused(before, now):
    with pytest.raises(TypeError, match=f"Mine.{before} must be named {now}"):
        type("Mine", (balance.SupervisedLoss,), {before: lambda self, *_: None})
