"""cRT: the encoder of a finished run is frozen, only a new classifier is trained."""

import doctest
import importlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from command import arguments, run_train
from dense_learner import K

import daso_tf
from daso_tf.run.checkpoints import CheckpointError, Checkpoints

SIZE = 12


def learner(make, encoder=None, **settings):
    if encoder is None:
        encoder = daso_tf.encoders.wide_resnet(10, 1, (SIZE, SIZE, 3))
    model = make(encoder, K, **STATISTICS, **settings)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), jit_compile=False)
    return model


def values(variables):
    return [np.array(variable) for variable in variables]


def train(model, steps):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        views = tf.constant(rng.normal(size=(6, SIZE, SIZE, 3)), tf.float32)
        outcome = model.train_on_views(views, tf.constant([0, 1, 2, 0, 1, 2]))
    return outcome


@pytest.fixture(scope="module")
def retrained():
    """A learner, its average, a learner that retrains on its encoder, and the first classifier."""
    first = learner(daso_tf.Supervised)
    train(first, 2)
    taken = values(first.ema_encoder.weights)
    model = learner(daso_tf.ClassifierRetraining, first.ema_encoder)
    classifier = values(model.classifier.weights)
    train(model, 3)
    return first, taken, model, classifier


def test_only_the_classifier_is_trained(retrained):
    _, taken, model, classifier = retrained
    for before, after in zip(taken, values(model.encoder.weights), strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(classifier, values(model.classifier.weights), strict=True):
        assert (before != after).any()
    assert len(model.trainable_weights) == 2
    np.testing.assert_allclose(
        np.concatenate([weight.ravel() for weight in values(model.ema_encoder.weights)]),
        np.concatenate([weight.ravel() for weight in taken]),
        rtol=1e-5,
    )


def test_classifier_starts_with_new_weights(retrained):
    first, _, model, classifier = retrained
    assert np.abs(classifier[0] - np.array(first.ema_classifier.kernel)).max() > 0.1
    assert not classifier[1].any()
    assert model.batch_arguments["class_balanced"]
    assert not first.batch_arguments["class_balanced"]


def test_loss_uses_the_features_of_inference_mode(retrained):
    _, _, model, _ = retrained
    views = tf.constant(np.random.default_rng(1).normal(size=(3, SIZE, SIZE, 3)), tf.float32)
    features = np.array(model.encoder(views, training=False), np.float64)
    logits = features @ np.array(model.classifier.kernel) + np.array(model.classifier.bias)
    log_probabilities = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    loss = model.compute_losses(views, tf.constant([2, 0, 1])).losses["supervised_loss"]
    expected = -np.mean(log_probabilities[np.arange(3), [2, 0, 1]])
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_saved_and_loaded(retrained, tmp_path):
    model = retrained[2]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(values(model.weights), values(again.weights), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(again.trainable_weights) == 2


def test_encoder_is_restored_from_a_checkpoint_of_any_learner(retrained, tmp_path):
    first, taken, _, _ = retrained
    checkpoints = Checkpoints(tmp_path)
    encoder = daso_tf.encoders.wide_resnet(10, 1, (SIZE, SIZE, 3))
    assert not checkpoints.restore_encoder(encoder)
    checkpoints.save(first)
    assert checkpoints.restore_encoder(encoder)
    for before, after in zip(taken, values(encoder.weights), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        checkpoints.restore_encoder(daso_tf.encoders.wide_resnet(10, 2, (SIZE, SIZE, 3)))


def test_command_retrains_the_classifier_of_a_finished_run(finished_run, tmp_path):
    settings = {"learner": "crt", "from_model_dir": finished_run.model_dir, "evaluate_every": 2}
    command = arguments(**settings, model_dir=tmp_path / "run", steps=2)
    assert run_train(*command) == 0
    (evaluation,) = json.loads((tmp_path / "run" / "results.json").read_text())["evaluations"]
    assert evaluation["step"] == 2
    with (
        np.load(finished_run.model_dir / "checkpoints" / "step_00000005.npz") as there,
        np.load(tmp_path / "run" / "checkpoints" / "step_00000002.npz") as here,
    ):
        networks = [name for name in here.files if name.startswith("network/")]
        changed = [
            name
            for name in networks
            if (here[name] != there[name.replace("network", "average")]).any()
        ]
        assert changed == networks[-2:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"from_model_dir": "nowhere"}, "--from_model_dir=nowhere has no checkpoint"),
        ({"encoder": "wrn_10_2"}, "that run has another --encoder or --resolution"),
    ],
)
def test_command_refuses_an_unusable_run(settings, message, finished_run, tmp_path, capsys):
    settings = {"learner": "crt", "from_model_dir": finished_run.model_dir, **settings}
    assert run_train(*arguments(**settings, model_dir=tmp_path / "run")) == 2
    assert message in capsys.readouterr().err


def test_docstring_example():
    module = importlib.import_module("daso_tf.learners.classifier_retraining")
    outcome = doctest.testmod(module, extraglobs={"daso_tf": daso_tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0
