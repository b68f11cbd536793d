"""Losses and mixing of the learners, each against its plain statement in NumPy, in float64."""

import numpy as np
import pytest
import tensorflow as tf
from numpy_statements import log_softmax, softmax
from scipy import stats

from daso_tf.learners import mixing
from daso_tf.platform import draws
from daso_tf.step import losses

RNG = np.random.default_rng(0)
TARGETS = softmax(RNG.normal(size=(6, 4)))
LOGITS, OTHER_LOGITS = RNG.normal(size=(2, 6, 4))


def mutual_information(first, second):
    """The triple sum, image by image and class by class."""
    first, second = softmax(first), softmax(second)
    joint = np.zeros((4, 4))
    for p, q in zip(first, second, strict=True):
        joint += (np.outer(p, q) + np.outer(q, p)) / (2 * len(first))
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    return -sum(
        joint[i, j] * np.log(joint[i, j] / (rows[i] * columns[j]))
        for i in range(4)
        for j in range(4)
    )


STATEMENTS = {
    "soft_cross_entropy": (
        lambda logits: tf.reduce_mean(losses.soft_cross_entropy(TARGETS, logits)),
        lambda logits: -np.mean(np.sum(TARGETS * log_softmax(logits), axis=1)),
    ),
    "squared_error": (
        lambda logits: losses.squared_error(TARGETS, logits),
        lambda logits: np.mean((softmax(logits) - TARGETS) ** 2),
    ),
    "mutual_information": (
        lambda logits: losses.mutual_information(logits, OTHER_LOGITS),
        lambda logits: mutual_information(logits, OTHER_LOGITS),
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_loss_and_gradient(name):
    loss, statement = STATEMENTS[name]
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits)
    assert float(value) == pytest.approx(statement(LOGITS), rel=1e-10)
    gradient = np.zeros_like(LOGITS)
    for place in np.ndindex(*LOGITS.shape):
        step = np.zeros_like(LOGITS)
        step[place] = 1e-6
        gradient[place] = (statement(LOGITS + step) - statement(LOGITS - step)) / 2e-6
    np.testing.assert_allclose(tape.gradient(value, logits), gradient, atol=1e-8)


def test_mutual_information_is_that_of_independent_and_of_sure_views():
    same_for_all = np.tile(LOGITS[:1], (6, 1))
    assert float(losses.mutual_information(same_for_all, same_for_all)) == pytest.approx(0)
    sure = 1000.0 * np.eye(4)  # the other probabilities are exactly 0
    assert float(losses.mutual_information(sure, sure)) == pytest.approx(-np.log(4))


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0])
def test_sharpening(temperature):
    sharp = np.array(mixing.sharpen(tf.constant(TARGETS), temperature))
    powers = TARGETS ** (1 / temperature)
    np.testing.assert_allclose(sharp, powers / powers.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_array_equal(sharp.argmax(axis=1), TARGETS.argmax(axis=1))
    assert (sharp.max(axis=1) >= TARGETS.max(axis=1) - 1e-12).all()


@pytest.mark.parametrize("beta", [0.5, 0.75, 3.0])
def test_mixing_weights_are_of_the_larger_side_of_a_beta_distribution(beta):
    @tf.function
    def weight(seed):
        return mixing.draw_mixup(tf.stack([7, seed]), 1, beta).weight

    weights = np.array([weight(seed) for seed in tf.range(2000)])
    assert weights.min() >= 0.5 and weights.max() <= 1
    distribution = stats.beta(beta, beta)
    assert stats.kstest(weights, lambda x: 2 * distribution.cdf(x) - 1).pvalue > 0.01
    mean = distribution.expect(lambda x: max(x, 1 - x))
    variance = distribution.expect(lambda x: max(x, 1 - x) ** 2) - mean**2
    assert weights.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / len(weights)))
    assert weights.var() == pytest.approx(variance, rel=0.1)


def test_mixing_orders_are_permutations_and_differ():
    orders = [mixing.draw_mixup(tf.constant([0, i]), 50, 0.5).order.numpy() for i in range(40)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order) for order in orders}) == 40
    partners_of_the_first = [order[0] for order in orders]
    assert len(set(partners_of_the_first)) > 15


def test_mixed_rows():
    mixup = mixing.MixUp(tf.constant(0.7, tf.float64), tf.constant([2, 0, 1, 5, 4, 3]))
    expected = 0.7 * TARGETS + 0.3 * TARGETS[[2, 0, 1, 5, 4, 3]]
    np.testing.assert_allclose(mixing.mix(tf.constant(TARGETS), mixup), expected, rtol=1e-12)


@pytest.mark.parametrize(("batch_size", "batches"), [(8, 5), (64, 7), (3, 5), (4, 1)])
def test_interleaving(batch_size, batches):
    values = tf.range(batch_size * batches)
    interleaved = mixing.interleave(values, batch_size)
    np.testing.assert_array_equal(mixing.interleave(interleaved, batch_size), values)
    # As many labeled images in each batch as in any other, but for one.
    labeled = (interleaved.numpy().reshape(batches, batch_size) < batch_size).sum(axis=1)
    assert labeled.sum() == batch_size and labeled.max() - labeled.min() <= 1
    # All that is not exchanged stays where it is.
    moved = interleaved.numpy() != np.arange(batch_size * batches)
    assert moved.sum() == 2 * labeled[1:].sum()


def test_mixed_network_sees_a_part_of_the_labeled_images_in_every_batch():
    batches = []

    def network(batch):
        batches.append(batch.numpy())
        return 10 * batch

    views = [tf.constant([[0.0], [1.0]]), tf.constant([[2.0], [3.0], [4.0], [5.0]])]
    nothing = mixing.MixUp(tf.constant(1.0), tf.range(6))
    outputs, targets = mixing.mixed(network, views, views, nothing)
    np.testing.assert_array_equal(outputs, 10 * np.arange(6.0)[:, None])
    np.testing.assert_array_equal(targets, np.arange(6.0)[:, None])
    assert [batch.ravel().tolist() for batch in batches] == [[2, 5], [0, 3], [4, 1]]


@pytest.mark.parametrize(("labeled", "unlabeled"), [(4, 6), (4, None)])
def test_batches_that_cannot_be_cut_are_refused(labeled, unlabeled):
    count = None if unlabeled is None else labeled + unlabeled

    @tf.function(input_signature=[tf.TensorSpec((count, 2))])
    def interleave(values):
        return mixing.interleave(values, labeled)

    with pytest.raises(ValueError, match="multiple of the labeled ones"):
        interleave.get_concrete_function()


def test_whole_numbers_are_uniform():
    drawn = draws.whole_numbers(tf.constant([3, 4]), 40_000, bits=2).numpy()
    assert stats.chisquare(np.bincount(drawn, minlength=4)).pvalue > 0.01
