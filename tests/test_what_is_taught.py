"""What a report says about the pseudo-labels of a learner: that they are those of its step."""

import numpy as np
import pytest
import tensorflow as tf
from dense_learner import COUNTS, SIZE, UNLABELED, K, dense_learner, train
from scipy.special import softmax

import daso_tf
from daso_tf import open_set
from daso_tf.balance import ABC, ACR, CoSSL
from daso_tf.learners import Student
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    CDMADPseudoLabeler,
    DASOPseudoLabeler,
    TeacherPseudoLabeler,
)
from daso_tf.run.inspection.answers import Network

PIXELS = np.random.default_rng(3).integers(0, 256, (UNLABELED, SIZE, SIZE, 3)).astype(np.uint8)
IMAGES = daso_tf.data.Images(PIXELS, np.full(UNLABELED, -1))


def trained(**arguments):
    """Returns a learner after four steps, whose average is its network, and what it is asked."""
    model = dense_learner(**{"ema_decay": 0.0, "threshold": 0.5, **arguments})
    rng = np.random.default_rng(1)
    for weight in model.classifier.trainable_weights:  # confident, and unlike the balanced one
        weight.assign(rng.normal(0, 3, weight.shape))
    train(model, 0, 4)
    network = Network(model, batch_size=8)
    return model, network, network.all_of(IMAGES)


def first_logits(model, answers):
    kernel, bias = (np.array(weight) for weight in model.ema_classifier.weights)
    return answers.features @ kernel + bias


def test_a_balanced_head_that_only_predicts_makes_no_pseudo_labels():
    model, network, answers = trained(balanced_head=ABC(COUNTS, total_steps=9))
    logits = first_logits(model, answers)
    taught = network.taught(answers)
    np.testing.assert_array_equal(taught.final, logits.argmax(axis=1))
    np.testing.assert_array_equal(taught.weights, softmax(logits, axis=1).max(axis=1) >= 0.5)
    assert (taught.final != answers.logits.argmax(axis=1)).any()  # the export's answers


def test_acr_teaches_its_adjusted_labels_and_what_is_confident_without_adjustment():
    head = ACR(COUNTS, tau=2.0, adapts=False, confidence_threshold=0.8)
    model, network, answers = trained(balanced_head=head, threshold=0.8)
    logits = first_logits(model, answers)
    adjusted = softmax(logits - 2 * np.log(np.array(COUNTS) / np.sum(COUNTS)), axis=1)
    confident = np.maximum(softmax(logits, axis=1).max(axis=1), adjusted.max(axis=1)) >= 0.8
    taught = network.taught(answers)
    np.testing.assert_array_equal(taught.final, adjusted.argmax(axis=1))
    np.testing.assert_array_equal(taught.weights, confident)
    assert (confident != (adjusted.max(axis=1) >= 0.8)).any()
    assert (taught.final != taught.linear).any()


@pytest.mark.parametrize(("debias_after", "debiases"), [(0, True), (9, False)])
def test_cdmad_removes_its_bias_from_pseudo_labels_once_it_does_so_in_training(
    debias_after, debiases
):
    labeler = CDMADPseudoLabeler(debias_after=debias_after, epoch_steps=2)
    model, network, answers = trained(pseudo_labeler=labeler)
    logits = first_logits(model, answers)
    blank = np.array(model.ema_encoder(tf.ones((1, SIZE, SIZE, 3))))
    kernel, bias = (np.array(weight) for weight in model.ema_classifier.weights)
    debiased = logits - (blank @ kernel + bias)
    assert (logits.argmax(axis=1) != debiased.argmax(axis=1)).any()
    expected = debiased if debiases else logits
    np.testing.assert_array_equal(network.taught(answers).final, expected.argmax(axis=1))


def test_cossl_teaches_by_its_balanced_classifier_after_the_warm_up():
    model, network, answers = trained(balanced_head=CoSSL(COUNTS, teach_after=1, warmup_steps=1))
    kernel, bias = (np.array(weight) for weight in model.balanced_classifier.weights)
    expected = (answers.features @ kernel + bias).argmax(axis=1)
    assert (expected != first_logits(model, answers).argmax(axis=1)).any()
    np.testing.assert_array_equal(network.taught(answers).final, expected)


def test_a_student_teaches_images_of_rare_classes_more_strongly():
    targets = softmax(np.random.default_rng(0).normal(0, 3, (UNLABELED, K)), axis=1)
    labeler = TeacherPseudoLabeler(UNLABELED, COUNTS, targets=targets)
    model = dense_learner(Student, pseudo_labeler=labeler)
    network = Network(model, batch_size=8)
    taught = network.taught(network.all_of(IMAGES))
    np.testing.assert_array_equal(taught.final, targets.argmax(axis=1))
    expected = np.sqrt(np.sum(targets / np.array(COUNTS), axis=1))
    np.testing.assert_allclose(taught.weights, expected / expected.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "labeler",
    [
        lambda: DASOPseudoLabeler(pretrain_steps=0),
        lambda: AlignedPseudoLabeler(COUNTS),
        lambda: CDMADPseudoLabeler(debias_after=0, epoch_steps=1, aligned_counts=COUNTS),
    ],
)
def test_images_of_no_class_are_not_taught_and_asking_changes_nothing(labeler):
    model, network, answers = trained(
        pseudo_labeler=labeler(), open_set=open_set.LargestProbability()
    )
    unknown = np.array(model.open_set(answers.plain, answers.features))
    model.open_set.limit.assign(np.median(unknown))
    before = [np.array(weight) for weight in model.weights]
    taught, again = network.taught(answers), network.taught(answers)
    np.testing.assert_array_equal(taught.weights[unknown > np.median(unknown)], 0)
    assert taught.weights.any()
    for one, other in zip(taught, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)
