"""Calibration errors and class shares against plain statements of them."""

import numpy as np
import pytest
from scipy.stats import binomtest

from daso_tf.data.unlabeled_distribution import em_shares
from daso_tf.run.inspection.accuracy import wilson
from daso_tf.run.inspection.folds import out_of_fold, suspected
from daso_tf.run.results import evaluate
from daso_tf.step.calibration import (
    calibration,
    class_groups,
    fit_calibrator,
    reliability,
)
from daso_tf.step.class_shares import Predictions, estimate_class_shares, matrix_shares

K = 6


def predictions(count=120, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, K, count), rng.dirichlet(np.ones(K), count)


def plain_calibration_error(confidence, correct, bins):
    """Sorts by confidence, cuts into bins of equally many, and sums their weighted gaps."""
    pairs = sorted(zip(confidence, correct, strict=True), key=lambda pair: pair[0])
    size = len(pairs) // bins
    error = 0.0
    for b in range(bins):
        members = pairs[b * size : (b + 1) * size]
        gap = sum(c for c, _ in members) / size - sum(r for _, r in members) / size
        error += size / len(pairs) * abs(gap)
    return error


def test_calibration_error_has_bins_of_equal_mass():
    labels, probabilities = predictions()
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = reliability(confidence, correct, bins=15)
    assert found.images.tolist() == [8] * 15
    assert found.error == pytest.approx(plain_calibration_error(confidence, correct, 15))
    assert (np.diff(found.confidence) >= 0).all()


def test_few_images_have_a_bin_each_and_none_has_no_error():
    few = reliability(np.array([0.9, 0.6]), np.array([True, False]))
    assert few.images.tolist() == [1, 1] and few.error == pytest.approx((0.1 + 0.6) / 2)
    assert np.isnan(reliability(np.array([]), np.array([], bool)).error)


def test_brier_score_log_loss_and_errors_of_the_thirds():
    labels, probabilities = predictions()
    counts = [5, 100, 1, 50, 20, 3]
    found = calibration(labels, probabilities, counts)
    one_hot = np.eye(K)[labels]
    assert found["brier_score"] == pytest.approx(np.mean(((probabilities - one_hot) ** 2).sum(1)))
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(probabilities[one_hot == 1])))
    predicted = probabilities.argmax(axis=1)
    tail = np.isin(predicted, [2, 5])
    expected = reliability(probabilities.max(axis=1)[tail], (predicted == labels)[tail]).error
    assert found["expected_calibration_error_of"]["tail"] == pytest.approx(expected)
    assert list(found["expected_calibration_error_of"]) == ["head", "medium", "tail"]


def test_thirds_are_by_labeled_count_and_few_classes_stand_alone():
    assert class_groups([5, 100, 1, 50, 20, 3]) == {
        "head": [1, 3],
        "medium": [4, 0],
        "tail": [5, 2],
    }
    assert [len(group) for group in class_groups(range(7)).values()] == [3, 2, 2]
    assert class_groups([3, 1, 2, 5, 4]) == {str(k): [k] for k in range(5)}


def test_every_evaluation_has_calibration_without_the_adjustment_it_contains():
    labels, probabilities = predictions()
    counts = np.array([100, 50, 20, 10, 5, 2])
    adjusted = probabilities / counts
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    plain = evaluate(labels, probabilities, counts)["calibration"]
    undone = evaluate(labels, adjusted, counts, test_logit_adjustment=1)["calibration"]
    assert plain["log_loss"] == pytest.approx(
        calibration(labels, probabilities, counts)["log_loss"]
    )
    assert undone["log_loss"] == pytest.approx(plain["log_loss"])


def shifted(counts, seed, spread=2.5):
    """Logits of a classifier that is calibrated for equal classes, and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    # The log likelihood ratio of Gaussians with means spread * e_k is linear in the point.
    points = rng.normal(spread * np.eye(len(counts))[labels], 1)
    return spread * points, labels


def plain_em(probabilities, prior, rounds):
    shares = np.array(prior)
    for _ in range(rounds):
        sums = np.zeros(len(prior))
        for row in probabilities:
            posterior = row * shares / prior
            sums += posterior / posterior.sum()
        shares = sums / len(probabilities)
    return shares


def test_em_equals_a_plain_statement_of_it():
    _, probabilities = predictions(40)
    prior = np.array([0.3, 0.1, 0.2, 0.2, 0.1, 0.1])
    found = em_shares(probabilities, prior, tolerance=0, most_iterations=25)
    np.testing.assert_allclose(found, plain_em(probabilities, prior, 25), rtol=1e-9)
    twice = em_shares(np.repeat(probabilities, 2, axis=0), prior, tolerance=0, most_iterations=25)
    weighted = em_shares(probabilities, prior, np.full(40, 2.0), tolerance=0, most_iterations=25)
    np.testing.assert_allclose(twice, weighted, rtol=1e-9)


def test_em_refuses_a_prior_of_zero():
    with pytest.raises(ValueError, match="above 0 for every class"):
        em_shares(np.full((2, 2), 0.5), np.array([1.0, 0.0]))


def test_matrix_shares_solve_the_equations_of_the_confusion_matrix():
    labels, held_out = predictions(300, seed=3)
    confusion = np.array([held_out[labels == k].mean(axis=0) for k in range(K)]).T
    truth = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    mixed = (confusion @ truth)[None]
    found = matrix_shares(held_out, labels, mixed, np.ones(1))
    np.testing.assert_allclose(found, truth, atol=1e-6)


def test_shares_are_found_whatever_the_held_out_shares_and_the_scale_of_the_logits():
    held_out, labels = shifted([150, 60, 30], seed=0)
    unlabeled, truth = shifted([40, 160, 400], seed=1)
    expected = np.bincount(truth) / len(truth)
    found = estimate_class_shares(Predictions(3 * held_out, labels, 3 * unlabeled), resamples=5)
    unscaled = estimate_class_shares(Predictions(held_out, labels, unlabeled), resamples=5)
    for estimate, other in zip(found[:2], unscaled[:2], strict=True):
        np.testing.assert_allclose(estimate.value, expected, atol=0.08)
        np.testing.assert_allclose(estimate.value, other.value, atol=0.02)
        assert 0 < (estimate.high - estimate.low).max() < 0.3


def test_intervals_cover_the_truth():
    covered = []
    for seed in range(6):
        held_out, labels = shifted([40, 40, 40], seed=10 + seed)
        unlabeled, truth = shifted([200, 70, 30], seed=100 + seed)
        of_network = Predictions(held_out, labels, unlabeled)
        found = estimate_class_shares(of_network, resamples=25, seed=seed).em
        expected = np.bincount(truth) / len(truth)
        covered += ((found.low <= expected) & (expected <= found.high)).tolist()
    assert np.mean(covered) > 0.75


def test_without_a_held_out_image_of_a_class_there_is_no_matrix():
    held_out, labels = shifted([20, 20, 20], seed=0)
    known = labels != 2
    found = estimate_class_shares(
        Predictions(held_out[known], labels[known], held_out), resamples=3
    )
    assert found.matrix is None and found.em.value.sum() == pytest.approx(1)


def test_the_calibrator_undoes_a_scale_and_a_shift():
    logits, labels = shifted([400, 400, 400], seed=5)
    shift = np.array([1.0, 0.0, -1.0])
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = fit_calibrator(4 * logits + shift, labels)(4 * logits + shift)
    assert np.abs(found - right).mean() < 0.02


def test_intervals_of_shares_are_wilsons():
    hits, images = np.array([0, 7, 20, 0]), np.array([20, 20, 20, 0])
    found = wilson(hits, images)
    for k in range(3):
        expected = binomtest(int(hits[k]), int(images[k])).proportion_ci(method="wilson")
        assert found.low[k] == pytest.approx(expected.low, abs=1e-6)
        assert found.high[k] == pytest.approx(expected.high, abs=1e-6)
    assert np.isnan(found.value[3])


def test_each_fold_is_predicted_by_a_head_that_has_not_seen_it():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    # One feature for each picture: only a head that has seen a picture knows its label.
    found = out_of_fold(np.eye(40), labels, num_classes=2)
    assert np.mean(found.probabilities.argmax(axis=1) == labels) < 0.8
    assert np.bincount(found.fold).tolist() == [8] * 5


def test_a_class_of_one_picture_is_never_suspected():
    probabilities = np.array([[0.9, 0.1, 0.0]] * 5 + [[0.1, 0.9, 0.0]] * 5 + [[1.0, 0.0, 0.0]])
    labels = np.repeat([0, 1, 2], [5, 5, 1])
    assert suspected(labels, probabilities).tolist() == [-1] * 11
    labels[0] = 1
    assert suspected(labels, probabilities)[0] == 0
    assert out_of_fold(np.eye(3)[labels], labels, 3).probabilities.shape == (11, 3)


def test_an_image_with_twice_the_weight_counts_like_two():
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (2000, 4))
    labels = (logits / 2 + rng.gumbel(size=(2000, 4))).argmax(axis=1)
    times = np.where(labels == 0, 3, rng.integers(0, 3, 2000))
    weighted = fit_calibrator(logits, labels, weights=times / 7)  # in any scale
    repeated = fit_calibrator(np.repeat(logits, times, axis=0), np.repeat(labels, times))
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=5e-3)
    np.testing.assert_allclose(weighted.bias, repeated.bias, atol=5e-3)
    plain = fit_calibrator(logits, labels)
    assert not np.allclose(plain.bias, repeated.bias, atol=0.01)
