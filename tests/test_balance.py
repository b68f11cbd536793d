"""What counters imbalance, each formula against its plain statement in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from daso_tf import balance

COUNTS = [40, 20, 10, 5]


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return np.array([0, 1, 2, 3, 0, 1]), rng.normal(size=(6, 4))


def test_supervised_loss_is_the_mean_cross_entropy(batch):
    labels, logits = batch
    expected = -np.mean(log_softmax(logits)[np.arange(6), labels])
    loss = balance.SupervisedLoss()
    assert float(loss(labels, tf.constant(logits), step=0)) == pytest.approx(expected, rel=1e-12)
    soft = np.eye(4)[labels] * 0.75 + 0.25 / 4
    expected = -np.mean(np.sum(soft * log_softmax(logits), axis=1))
    assert float(loss(soft, tf.constant(logits), step=0)) == pytest.approx(expected, rel=1e-12)


def test_logit_adjustment_adds_the_prior(batch):
    labels, logits = batch
    adjusted = logits + 0.5 * np.log(np.array(COUNTS) / np.sum(COUNTS))
    expected = -np.mean(log_softmax(adjusted)[np.arange(6), labels])
    loss = balance.LogitAdjustedLoss(COUNTS, tau=0.5)
    assert float(loss(labels, tf.constant(logits), step=0)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [balance.SupervisedLoss(), balance.LogitAdjustedLoss(COUNTS, 0.3)])
def test_losses_are_made_again_from_their_config(loss, batch):
    labels, logits = batch
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    logits = tf.constant(logits)
    assert float(again(labels, logits, 0)) == float(loss(labels, logits, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 2, 1, 0],), "at least 1 for every class, not"),
        (([3],), "two classes or more"),
        (([3, 2], 0.0), "tau must be above 0, not 0.0"),
    ],
)
def test_logit_adjustment_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        balance.LogitAdjustedLoss(*arguments)
