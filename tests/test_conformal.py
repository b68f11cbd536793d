"""Sets of classes: how often they contain the true one, against a plain statement of the rule."""

import numpy as np
import pytest

from daso_tf.step.conformal import fewest_images, set_thresholds

SHARES = np.array([0.5, 0.3, 0.2])
NAMED = [9, 9, 9]  # below six classes, each stands alone


def answers(labels, seed, num_classes=3):
    """Noisy probabilities: exchangeable within a class."""
    logits = np.random.default_rng(seed).normal(1.2 * np.eye(num_classes)[labels], 1)
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def by_class(probabilities, labels, num_classes):
    return [probabilities[labels == k, k] for k in range(num_classes)]


def plain_least(scores, coverage):
    """The largest score that so many of all scores and an unknown one reach."""
    needed = coverage * (len(scores) + 1)
    reached = [t for t in scores if np.sum(scores >= t) >= needed - 1e-9]
    return max(reached)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_thresholds_equal_a_plain_statement(coverage):
    labels = np.repeat([0, 1, 2], [19, 60, 101])
    scores = by_class(answers(labels, 0), labels, 3)
    found = set_thresholds(scores, NAMED, coverage)
    assert not found.shared
    np.testing.assert_array_equal(found.least, [plain_least(of, coverage) for of in scores])


def test_each_class_is_covered_for_any_class_distribution():
    coverage, covered = 0.9, []
    for seed in range(300):  # the promise is a mean over draws of the held-out images
        labels = np.repeat([0, 1, 2], [30, 15, 9])
        thresholds = set_thresholds(by_class(answers(labels, seed), labels, 3), NAMED, coverage)
        assert not thresholds.shared
        new = np.repeat([0, 1, 2], 200)
        sets = thresholds(answers(new, 1000 + seed))
        covered.append(sets[np.arange(600), new].reshape(3, 200).mean(axis=1))
    exact = [1 - np.floor(0.1 * (n + 1) + 1e-9) / (n + 1) for n in (30, 15, 9)]
    error = np.std(covered, axis=0) / np.sqrt(len(covered))
    assert (np.abs(np.mean(covered, axis=0) - exact) < 4 * error).all()
    assert (np.array(exact) >= coverage).all()


def test_few_images_share_a_threshold_within_their_third():
    coverage, third_covered, own_covered = 0.9, [], []
    counts = [60, 50, 12, 11, 4, 3]  # thirds: 0 and 1; 2 and 3; 4 and 5
    held_out = np.repeat(np.arange(6), [40, 40, 30, 30, 12, 5])
    new = np.repeat([4, 5], [480, 200])  # as frequent as among the held-out images
    for seed in range(200):
        scores = by_class(answers(held_out, seed, 6), held_out, 6)
        found = set_thresholds(scores, counts, coverage)
        (shared,) = found.shared
        assert (shared.classes, shared.third, shared.images) == ([5], [4, 5], 17)
        assert shared.promised == coverage
        assert found.least[5] == plain_least(np.concatenate(scores[4:]), coverage)
        assert found.least[4] <= plain_least(scores[4], coverage)
        right = found(answers(new, 1000 + seed, 6))[np.arange(len(new)), new]
        third_covered.append(right.mean())
        own_covered.append(right[new == 4].mean())
    assert np.mean(third_covered) > coverage and np.mean(own_covered) > coverage


def test_what_cannot_be_promised_is_stated():
    found = set_thresholds([np.array([0.2, 0.7, 0.6, 0.9]), np.array([])], [9, 1], 0.95)
    assert found.least.tolist() == [0.2, 0.0]
    assert [(of.classes, of.images, of.promised) for of in found.shared] == [
        ([0], 4, 0.8),
        ([1], 0, 1.0),
    ]
    assert found(np.array([[0.1, 0.9]])).tolist() == [[False, True]]


@pytest.mark.parametrize(("coverage", "fewest"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_the_fewest_images_of_a_threshold_of_its_own(coverage, fewest):
    for images, enough in ((fewest - 1, False), (fewest, True)):
        scores = [np.linspace(0.1, 0.9, images)] * 2
        assert bool(set_thresholds(scores, [9, 9], coverage).shared) is not enough
    assert fewest_images(coverage) == fewest
