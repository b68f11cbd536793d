"""The classifier of a learner: linear or cosine, with random weights or those of a probe."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train

import daso_tf
from daso_tf.platform.npz import ArrayFile
from daso_tf.step import closed_forms
from daso_tf.step.cosine_classifier import CosineClassifier
from daso_tf.step.probe import begin_as_probe
from daso_tf.step.stored_views import feature_statistics

K, COUNTS = 3, (12, 6, 4)
STATISTICS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def encoder():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])


def compiled(**given):
    learner = daso_tf.Supervised(encoder(), K, **STATISTICS, **given)
    learner.compile(daso_tf.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
    return learner


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    draws = np.random.default_rng(0)
    labels = np.repeat(np.arange(K), COUNTS)
    images = draws.integers(0, 120, (len(labels), 8, 8, 3)) + 45 * labels[:, None, None, None]
    images = images.astype(np.uint8)
    data = daso_tf.data.from_arrays(images, labels, images[:6])
    keras.utils.set_random_seed(0)
    return daso_tf.feature_bank(data, encoder(), cache_dir=tmp_path_factory.mktemp("cache"))


def learner_on(bank, **given):
    adapter = daso_tf.encoders.adapter("none", feature_statistics(bank))
    return daso_tf.Supervised(adapter, K, data=bank, **given)


def plain(bank):
    return bank.labeled.take(np.arange(len(bank.labeled)))


def test_cosine_logits_are_those_of_the_formula():
    draws = np.random.default_rng(0)
    features, kernel = draws.normal(size=(6, 4)), draws.normal(size=(4, K))
    classifier = CosineClassifier(K, temperature=0.1)
    classifier.build((None, 4))
    classifier.set_weights([kernel, np.log(2.0)])
    cosines = features @ kernel
    cosines /= np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    found = classifier(tf.constant(features, tf.float32))
    np.testing.assert_allclose(found, 20 * cosines, rtol=1e-4)


def test_a_cosine_classifier_is_trained_averaged_and_saved(tmp_path):
    learner = compiled(classifier="cosine", ema_decay=0.5)
    assert isinstance(learner.classifier, CosineClassifier)
    assert learner.classifier.units == K
    kernel, log_scale = (weight.numpy() for weight in learner.classifier.weights)
    np.testing.assert_array_equal(learner.ema_classifier.kernel.numpy(), kernel)
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    for _ in range(3):
        learner.train_on_batch((images, images), draws.integers(0, K, 8).astype(np.int32))
    assert np.abs(learner.classifier.kernel.numpy() - kernel).max() > 0
    assert learner.classifier.log_scale.numpy() != log_scale
    assert np.abs(learner.ema_classifier.kernel.numpy() - learner.classifier.kernel).max() > 0
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert loaded.classifier.temperature == learner.classifier.temperature
    np.testing.assert_array_equal(loaded.predict(images), learner.predict(images))


def test_a_layer_of_ones_own_is_the_classifier():
    learner = compiled(classifier=keras.layers.Dense(K, use_bias=False, name="own"))
    assert [tuple(w.shape) for w in learner.classifier.weights] == [(5, K)]
    assert learner.get_config()["classifier"]["config"]["name"] == "own"


def test_without_one_nothing_new_is_saved():
    learner = compiled()
    assert "classifier" not in learner.get_config()
    assert isinstance(learner.classifier, keras.layers.Dense)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (lambda: keras.layers.Dense(2), r"logits \(batch, 3\), one for each class"),
        (lambda: keras.layers.Dense(K, activation="softmax"), "has the activation softmax"),
        (lambda: 3, "must be a keras.layers.Layer"),
        (lambda: "square", "There is no classifier 'square'. Allowed: linear, cosine"),
    ],
)
def test_what_is_no_classifier_is_refused(classifier, message):
    with pytest.raises(ValueError, match=message):
        compiled(classifier=classifier())


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_a_linear_classifier_begins_as_logistic_regression(bank, tau):
    loss = daso_tf.balance.LogitAdjustedLoss(COUNTS, tau) if tau else None
    learner = learner_on(bank, supervised_loss=loss)
    begin_as_probe(learner, bank)
    features = feature_statistics(bank).standardized(bank.labeled.views[0][:, 0])
    weights, bias = closed_forms.logistic_regression(features, bank.labeled.labels, COUNTS, tau)
    expected = features @ weights + bias
    np.testing.assert_allclose(learner.ema_logits(plain(bank)), expected, atol=1e-4)
    for trained, average in zip(
        learner.classifier.weights, learner.ema_classifier.weights, strict=True
    ):
        np.testing.assert_array_equal(trained.numpy(), average.numpy())


def test_a_cosine_classifier_begins_with_the_class_means(bank):
    learner = learner_on(bank, classifier="cosine")
    begin_as_probe(learner, bank)
    expected = closed_forms.answers(bank, bank.labeled)["nearest_mean"]
    np.testing.assert_array_equal(learner.ema_logits(plain(bank)).numpy().argmax(axis=1), expected)


def test_another_classifier_cannot_begin_as_a_probe(bank):
    own = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(K)])
    with pytest.raises(ValueError, match="can begin as a probe"):
        begin_as_probe(learner_on(bank, classifier=own), bank)


# ---- The command


def frozen(folder, name, **settings):
    return arguments(
        freeze_encoder=True,
        adapter_units=8,
        bank_weak_views=2,
        cache_dir=folder / "cache",
        model_dir=folder / name,
        **settings,
    )


def arrays(model_dir, step):
    with ArrayFile(model_dir / "checkpoints" / f"step_{step:08d}.npz") as file:
        return {name: file[name] for name in file.headers}


def test_a_run_with_another_classifier_continues_bit_for_bit(tmp_path):
    flags = ["--classifier=cosine", "--classifier_weights=probe"]
    argv = [*frozen(tmp_path, "run", steps=4, evaluate_every=2), *flags]
    assert run_train(*argv) == 0
    whole = arrays(tmp_path / "run", 4)
    (tmp_path / "run" / "checkpoints" / "step_00000004.npz").unlink()
    assert run_train(*argv) == 0
    found = arrays(tmp_path / "run", 4)
    assert whole.keys() == found.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)


def test_a_probe_needs_frozen_features(tmp_path, capsys):
    argv = arguments(model_dir=tmp_path / "run", steps=2, evaluate_every=2)
    assert run_train(*argv, "--classifier_weights=probe") == 2
    assert "give --freeze_encoder" in capsys.readouterr().err
