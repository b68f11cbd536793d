"""DebiasPL against a plain NumPy statement, its gradient and its place in learners."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train
from dense_learner import K, assert_saved_and_resumed_exactly, dense_learner, step_inputs, train
from numpy_statements import log_softmax, softmax

import daso_tf
from daso_tf.pseudo_labels import DebiasedPseudoLabeler, debiaspl
from daso_tf.step import losses


@pytest.mark.parametrize("compiled", [False, True])
def test_pseudo_labels_and_margins(compiled):
    rng = np.random.default_rng(0)
    labeler = DebiasedPseudoLabeler(strength=0.7, momentum=0.8)
    labeler.build([(None, K), (None, 2)])

    def both(weak, strong):
        labels = labeler(tf.nn.softmax(weak), tf.zeros((6, 2)), step=0)
        return labels, labeler.with_margins(strong)

    both = tf.function(both, jit_compile=compiled) if compiled else both
    mean, debiased = np.full(K, 1 / K), 0
    for _ in range(6):
        weak, strong = rng.normal(size=(2, 6, K)) + np.array([3, 1, 0])
        labels, margined = both(tf.constant(weak, tf.float32), tf.constant(strong, tf.float32))
        expected = softmax(weak - 0.7 * np.log(mean))
        np.testing.assert_allclose(labels.target, expected, rtol=1e-5)
        np.testing.assert_array_equal(labels.final, expected.argmax(axis=1))
        np.testing.assert_allclose(labels.confidence, expected.max(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(labels.linear, weak.argmax(axis=1))
        debiased += np.sum(labels.linear != labels.final)
        mean = 0.8 * mean + 0.2 * softmax(weak).mean(axis=0)
        np.testing.assert_allclose(margined, strong + 0.7 * np.log(mean), rtol=1e-5)
    assert debiased > 0


def test_gradient_of_the_marginal_loss():
    rng = np.random.default_rng(1)
    labeler = DebiasedPseudoLabeler(strength=1.0)
    labeler.build([(None, K), (None, 2)])
    labeler.mean_prediction.assign([0.7, 0.2, 0.1])
    strong, labels, mask = rng.normal(size=(4, K)), np.array([0, 1, 2, 2]), np.array([1, 1, 0, 1])

    def plain(logits):
        rows = log_softmax(logits + np.log([0.7, 0.2, 0.1]))[np.arange(4), labels]
        return np.mean(mask * -rows)

    logits = tf.constant(strong)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.consistency(
            tf.constant(labels), tf.constant(mask), labeler.with_margins(logits)
        )
    assert float(loss) == pytest.approx(plain(strong), rel=1e-5)
    gradient = tape.gradient(loss, logits).numpy()
    for index in np.ndindex(*strong.shape):
        nudge = np.zeros_like(strong)
        nudge[index] = 1e-5
        numeric = (plain(strong + nudge) - plain(strong - nudge)) / 2e-5
        assert gradient[index] == pytest.approx(numeric, abs=1e-6)


def test_predictions_without_bias_stay_unchanged():
    labeler = DebiasedPseudoLabeler(strength=1.0)
    labeler.build([(None, 2), (None, 2)])
    p = tf.constant([[0.9, 0.1], [0.1, 0.9]])
    np.testing.assert_allclose(labeler(p, tf.zeros((2, 2)), step=0).target, p, rtol=1e-6)


def test_class_that_is_never_predicted_is_finite():
    labeler = DebiasedPseudoLabeler(momentum=0.0)
    labeler.build([(None, 2), (None, 2)])
    for step in range(2):
        labels = labeler(tf.constant([[1.0, 0.0]]), tf.zeros((1, 2)), step=step)
    np.testing.assert_allclose(labels.target, [[1, 0]])
    assert np.isfinite(labeler.with_margins(tf.zeros((1, 2)))).all()


def test_fixmatch_learns_with_margins():
    """In the first step only the margins differ from FixMatch: nothing is debiased yet."""
    plain = dense_learner(threshold=0.0)
    learner = dense_learner(
        pseudo_labeler=DebiasedPseudoLabeler(strength=1.0, momentum=0.0), threshold=0.0
    )
    views, *_ = step_inputs(0)
    weak, strong = (out.logits.numpy() for out in learner.forward(*views)[1:])
    bias = np.log(softmax(weak).mean(axis=0))
    expected = -log_softmax(strong + bias)[np.arange(len(weak)), weak.argmax(axis=1)]
    ours, theirs = (train(model, 0, 1).losses for model in (learner, plain))
    assert float(ours["consistency_loss"]) == pytest.approx(expected.mean(), rel=1e-4)
    assert float(ours["supervised_loss"]) == float(theirs["supervised_loss"])
    assert float(ours["consistency_loss"]) != float(theirs["consistency_loss"])


def test_saved_and_resumed_exactly(tmp_path):
    model = dense_learner(pseudo_labeler=DebiasedPseudoLabeler(0.6, 0.9))
    assert_saved_and_resumed_exactly(model, tmp_path / "model.keras")


def test_config_round_trip():
    made = DebiasedPseudoLabeler(0.6, 0.9, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert again.get_config() == made.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-0.1,), "strength must be at least 0, not -0.1"), ((1, 1), r"momentum must be in \[0, 1\)")],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DebiasedPseudoLabeler(*arguments)


def test_learners_without_margins_are_refused(tmp_path, capsys):
    message = "DebiasedPseudoLabeler does not go with MixMatch: it teaches probabilities"
    with pytest.raises(ValueError, match=message):
        dense_learner(daso_tf.MixMatch, pseudo_labeler=DebiasedPseudoLabeler())
    command = arguments(learner="mixmatch", pseudo_labeler="debiaspl", model_dir=tmp_path / "run")
    assert run_train(*command) == 2
    message = capsys.readouterr().err
    assert "--pseudo_labeler=debiaspl does not go with --learner=mixmatch: it teaches" in message


def test_docstring_example():
    outcome = doctest.testmod(debiaspl, extraglobs={"tf": tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0
