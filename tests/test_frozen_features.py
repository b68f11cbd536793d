"""Classifiers on frozen features: the discriminant, its teaching, the student, the comparison."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import daso_tf
from daso_tf.encoders.adapter import FeatureStatistics
from daso_tf.pseudo_labels.discriminant import (
    Discriminant,
    chosen_shrinkage,
    estimated_prior,
    fitted_temperature,
    folds,
    out_of_fold_scores,
    teach,
)
from daso_tf.pseudo_labels.teacher import TeacherPseudoLabeler, rarity_weights
from daso_tf.run import comparison
from daso_tf.settings import optimizers

COUNTS, F, K = (40, 12, 6), 5, 3
PRIOR = np.array(COUNTS) / sum(COUNTS)


@pytest.fixture(scope="module")
def labeled():
    draws = np.random.default_rng(0)
    labels = np.repeat(np.arange(K), COUNTS)
    means = draws.normal(size=(K, F))
    return means[labels] + draws.normal(size=(len(labels), F)) @ np.diag([1, 2, 1, 0.5, 1]), labels


def whitened_scores(features, labels, queries):
    """The statement of the study, step 2: whiten, then compare with the means."""
    means = np.stack([features[labels == k].mean(axis=0) for k in range(K)])
    within = features - means[labels]
    covariance = within.T @ within / len(features)
    shrunk = 0.4 * covariance + 0.6 * np.trace(covariance) / F * np.eye(F)
    values, vectors = np.linalg.eigh(shrunk)
    whiten = vectors / np.sqrt(values)
    m, x = means @ whiten, queries @ whiten
    v = np.square(within @ whiten).mean(axis=0).sum()
    counts = np.bincount(labels)
    return np.stack([x @ m[k] - m[k] @ m[k] / 2 + v / (2 * counts[k]) for k in range(K)], axis=1)


def test_scores_are_those_of_whitened_features(labeled):
    features, labels = labeled
    queries = np.random.default_rng(1).normal(size=(7, F))
    np.testing.assert_allclose(
        Discriminant.fit(features, labels, K).scores(queries),
        whitened_scores(features, labels, queries),
    )


def test_without_the_correction_it_is_scikit_learns(labeled):
    features, labels = labeled
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.6).fit(
        features / features.std(axis=0), labels
    )
    own = Discriminant.fit(features / features.std(axis=0), labels, K, corrected=False)
    scores = own.scores(features / features.std(axis=0)) + np.log(PRIOR)
    np.testing.assert_allclose(
        softmax(scores, axis=1), theirs.predict_proba(features / features.std(axis=0)), atol=1e-6
    )


def test_a_temperature_is_the_most_likely_one(labeled):
    features, labels = labeled
    scores = out_of_fold_scores(features, labels, K)
    found = fitted_temperature(scores, labels, PRIOR)

    def likelihood(temperature):
        probabilities = softmax(scores / temperature + np.log(PRIOR), axis=1)
        return np.log(probabilities[np.arange(len(labels)), labels]).mean()

    tried = np.geomspace(0.1, 1000, 400)
    assert likelihood(found) >= max(map(likelihood, tried)) - 1e-6


def test_no_image_takes_part_in_its_own_score(labeled):
    features, labels = labeled
    fold = folds(labels, 5, seed=0)
    scores = out_of_fold_scores(features, labels, K, seed=0)
    for number in range(5):
        out = fold == number
        counts = np.bincount(labels[out], minlength=K)
        assert counts.max() <= 8 and counts.min() >= 1  # as even as possible
        expected = Discriminant.fit(features[~out], labels[~out], K).scores(features[out])
        np.testing.assert_allclose(scores[out], expected)


def test_a_class_with_one_image_does_not_stop_anything():
    features = np.random.default_rng(0).normal(size=(8, 2))
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    taught = teach(features, labels, features[None], 3)
    assert np.isfinite(taught.targets).all() and np.isfinite(taught.temperature)


def test_the_teacher_is_that_of_the_study(labeled):
    features, labels = labeled
    views = np.random.default_rng(2).normal(size=(2, 30, F))
    taught = teach(features, labels, views, K, shrinkage=0.6)
    assert taught.estimated
    scores = np.mean([whitened_scores(features, labels, view) for view in views], axis=0)
    logits = scores / fitted_temperature(out_of_fold_scores(features, labels, K), labels, PRIOR)
    prior = PRIOR
    for _ in range(100):
        p = np.exp(logits) * prior
        p /= p.sum(axis=1, keepdims=True)
        prior = (p.sum(axis=0) + 1) / (30 + K)
    np.testing.assert_allclose(taught.class_distribution, prior)
    p = np.exp(logits) * prior
    np.testing.assert_allclose(taught.targets, p / p.sum(axis=1, keepdims=True))


def few_among_many_features(count):
    """Labeled images of two classes, and unlabeled ones; 20 of 200 features differ."""
    draws = np.random.default_rng(3)
    means = np.zeros((2, 200))
    means[1, :20] = 1.0
    labels, classes = np.repeat([0, 1], [3 * count, count]), np.repeat([0, 1], [300, 100])
    return (
        draws.normal(size=(len(labels), 200)) + means[labels],
        labels,
        draws.normal(size=(400, 200)) + means[classes],
        classes,
    )


def test_the_fewer_images_the_more_the_covariance_shrinks():
    chosen = [chosen_shrinkage(*few_among_many_features(count)[:2], 2) for count in (10, 150)]
    assert chosen[0] > chosen[1] == 0.6


def test_a_shrinkage_that_the_labels_choose_classifies_better():
    features, labels, unlabeled, classes = few_among_many_features(10)

    def accuracy(shrinkage):
        scores = Discriminant.fit(features, labels, 2, shrinkage).scores(unlabeled)
        return np.mean([(scores[classes == k].argmax(axis=1) == k).mean() for k in range(2)])

    assert accuracy(chosen_shrinkage(features, labels, 2)) > accuracy(0.6)


def test_an_estimate_that_fails_on_labeled_images_is_not_used():
    draws = np.random.default_rng(0)
    features, labels = draws.normal(size=(20, 50)), np.repeat([0, 1, 2], [12, 5, 3])  # no class
    taught = teach(features, labels, [draws.normal(size=(200, 50))], 3, shrinkage=0.6)
    assert not taught.estimated
    np.testing.assert_allclose(taught.class_distribution, [0.6, 0.25, 0.15])


def test_the_estimate_finds_the_distribution_of_separable_images():
    logits = 50 * np.eye(3)[np.repeat([0, 1, 2], [50, 30, 20])]
    found = estimated_prior(logits, np.full(3, 1 / 3))
    np.testing.assert_allclose(found, [51 / 103, 31 / 103, 21 / 103])


def test_rare_images_weigh_more_up_to_a_limit():
    targets = np.eye(2)[[0] * 999 + [1]]
    weights = rarity_weights(targets, [0.999, 0.001])
    assert weights.mean() == pytest.approx(1)
    # sqrt(1 / 0.001) is 31 times the others, and at most 5 times the mean.
    assert 4.9 < weights[-1] / weights[0] < 5.2


class Same(daso_tf.augment.StoredView):
    """Views that are the rows as they are."""

    def call(self, rows, seed):
        return rows


def test_a_step_of_the_student_is_that_of_the_study(labeled):
    features, labels = labeled
    teacher = teach(features, labels, features[None] + 0.1, K)
    labeler = TeacherPseudoLabeler(len(labels), teacher.class_distribution, teacher.targets)
    statistics = FeatureStatistics.of([features])
    image = keras.Input((4, 4, 3))
    frozen = keras.Model(image, keras.layers.Dense(F)(keras.layers.GlobalAveragePooling2D()(image)))
    model = daso_tf.Student(
        daso_tf.encoders.adapter("none", statistics),
        K,
        labeler,
        frozen_encoder=frozen,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        weak=Same(),
        unlabeled_weight=2.0,
        supervised_loss=daso_tf.balance.LogitAdjustedLoss(COUNTS),
    )
    model.compile(keras.optimizers.SGD(0.1))
    positions = np.array([3, 41, 55, 0])
    rows = features[:, None].astype(np.float32)
    kernel, bias = (weight.numpy() for weight in model.classifier.weights)
    logs = model.train_on_batch(
        (rows[50:54], rows[positions], positions), labels[50:54], return_dict=True
    )

    def cross_entropy(z, prior, target):
        return -(target * np.log(softmax(z + np.log(prior), axis=1))).sum(axis=1)

    def logits(members):
        return statistics.standardized(features[members].astype(np.float32)) @ kernel + bias

    supervised = cross_entropy(logits(np.arange(50, 54)), PRIOR, np.eye(K)[labels[50:54]]).mean()
    weights = rarity_weights(teacher.targets, teacher.class_distribution)[positions]
    taught = weights * cross_entropy(
        logits(positions), teacher.class_distribution, teacher.targets[positions]
    )
    assert logs["supervised_loss"] == pytest.approx(supervised, rel=1e-4)
    assert logs["consistency_loss"] == pytest.approx(2 * taught.mean(), rel=1e-4)


def test_a_teacher_needs_a_feature_bank():
    images = np.zeros((6, 8, 8, 3), np.uint8)
    data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    with pytest.raises(ValueError, match="lda_teacher needs the features of a frozen encoder"):
        encoder = daso_tf.encoders.wide_resnet(10, 1, (8, 8, 3))
        daso_tf.Student(encoder, 2, "lda_teacher", data=data)


def test_a_rate_falls_along_half_a_cosine():
    rate = optimizers.learning_rate(0.1, cosine="half", cosine_steps=100)
    np.testing.assert_allclose(
        [float(rate(tf.constant(step))) for step in (0, 50, 100)], [0.1, 0.05, 0.0], atol=1e-7
    )


# ---- Does unlabeled data help here?


def test_changes_are_means_over_the_classes_of_a_third():
    labels = np.repeat(np.arange(6), 100)
    right, draws = np.zeros(600, bool), np.random.default_rng(0)
    gained = (labels == 5) & (draws.random(600) < 0.5)
    found = comparison.changes(right | gained, right, labels, [60, 50, 40, 30, 20, 10])
    assert found["tail"]["change"] == pytest.approx(gained.sum() / 200)
    share = gained[500:].mean()
    error = np.sqrt(share * (1 - share) / 100) / 2
    assert found["tail"]["standard_error"] == pytest.approx(error)
    assert found["head"] == {"change": 0, "standard_error": 0}
    assert found["all"]["change"] == pytest.approx(gained.sum() / 600)


def test_classes_without_images_do_not_count():
    found = comparison.changes(np.array([True]), np.array([False]), np.array([1]), [5, 3, 2])
    assert found == {name: {"change": 1, "standard_error": 0} for name in ("all", "medium")}
