"""Class shares from few labeled pictures: wide enough intervals, or no estimate."""

import numpy as np
import pytest

from daso_tf.run.inspection.folds import Head, out_of_fold, refitted
from daso_tf.step.class_shares import Predictions, estimate_class_shares, self_check

LABELED = [30, 16, 8, 5]  # 59 pictures
SHARES = np.array([0.1, 0.2, 0.3, 0.4])
D = 24


def pictures(seed):
    """Features of labeled pictures, which the network has learned, and of unlabeled ones."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(len(LABELED), D)) * 0.6
    labels, truth = np.repeat(range(4), LABELED), rng.choice(4, 250, p=SHARES)
    labeled = 1.3 * means[labels] + rng.normal(size=(len(labels), D))
    unlabeled = means[truth] + rng.normal(size=(len(truth), D))
    return labeled, labels, unlabeled, np.bincount(truth, minlength=4) / len(truth)


def estimated(seed, refits):
    labeled, labels, unlabeled, truth = pictures(seed)
    held_out = np.log(out_of_fold(labeled, labels, 4).probabilities)
    found = Predictions(held_out, labels, np.log(Head(labeled, labels, 4)(unlabeled)))
    more = refitted(labeled, labels, unlabeled, 4, count=refits)
    return estimate_class_shares(found, more, resamples=4 * max(refits, 10), seed=seed), truth


def test_intervals_cover_the_truth_with_few_labels():
    covered = {refits: [] for refits in (0, 8)}
    for refits, of in covered.items():
        for seed in range(6):
            found, truth = estimated(seed, refits)
            assert found.em.value.sum() == pytest.approx(1)
            of += ((found.em.low <= truth) & (truth <= found.em.high)).tolist()
    # Without the spread of the heads, the intervals are too narrow.
    assert np.mean(covered[8]) >= 0.85 > np.mean(covered[0])


def test_the_copies_of_a_picture_are_in_one_fold():
    features = np.eye(20)  # one feature for each picture: only a head that has seen it knows it
    labels = np.arange(20) % 2
    for found in refitted(features, labels, features, 2, count=3):
        assert len(found.labels) == 20 and found.unlabeled.shape == (20, 2)
        right = found.held_out.argmax(axis=1) == found.labels
        assert right.mean() < 0.8


def test_many_labeled_pictures_are_not_refitted():
    assert not list(refitted(np.zeros((501, 2)), np.zeros(501, int), np.zeros((3, 2)), 2))


def test_no_estimate_where_not_even_the_held_out_shares_are_found():
    rng = np.random.default_rng(3)
    labels = np.repeat(range(6), [7, 5, 3, 2, 2, 1])
    logits = rng.normal(np.eye(6)[labels], 1)
    found = estimate_class_shares(Predictions(logits, labels, logits), resamples=2)
    assert found.self_check > 0.1 and found.em is None and found.matrix is not None


def test_the_self_check_is_near_0_for_separable_pictures():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    logits = np.random.default_rng(0).normal(9 * np.eye(3)[labels], 1)
    assert self_check(logits, labels) < 0.01
