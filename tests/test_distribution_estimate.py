"""The class distribution of unlabeled images, estimated during training, and what takes it."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from command import arguments, completed, run_train

import daso_tf
from daso_tf import open_set
from daso_tf.balance import LogitAdjustedLoss
from daso_tf.pseudo_labels import AlignedPseudoLabeler, DARPPseudoLabeler, DASOPseudoLabeler
from daso_tf.pseudo_labels.daso import EQUAL_IMBALANCE, OTHER_IMBALANCE
from daso_tf.run import distribution_estimate
from daso_tf.run.prediction import Prediction
from daso_tf.settings import limits, methods
from daso_tf.step.class_shares import confirmed_shares

LABELED = [8, 4, 2]
SHARES = np.array([0.22, 0.3, 0.48])
PREDICTIONS = tf.nn.softmax(tf.constant(np.random.default_rng(0).normal(size=(6, 3)), tf.float32))


def called(labeler):
    """The targets of a compiled step that is traced once."""
    labeler.build([(None, 3), (None, 2)])

    @tf.function
    def step(predictions, step):
        zeros = tf.zeros((6, 2))
        return labeler(predictions, zeros, step=step, positions=tf.range(6)).target

    return lambda at: step(PREDICTIONS, tf.constant(at)).numpy()


@pytest.mark.parametrize("kind", ["alignment", "darp"])
def test_a_compiled_step_takes_the_estimate(kind):
    def make(distribution, estimated):
        if kind == "alignment":
            return AlignedPseudoLabeler(distribution, window=1, estimated=estimated)
        return DARPPseudoLabeler(distribution, 6, start_step=0, period=1, estimated=estimated)

    labeler = make(LABELED, True)
    of_step = called(labeler)
    first = of_step(0)
    np.testing.assert_allclose(first, called(make(LABELED, False))(0), atol=1e-5)
    labeler.set_class_distribution(SHARES)
    expected = called(make(SHARES.tolist(), False))(0)
    np.testing.assert_allclose(of_step(1), expected, atol=1e-5)
    assert np.abs(expected - first).max() > 0.05

    fixed = make(LABELED, False)
    of_fixed = called(fixed)
    of_fixed(0)
    fixed.set_class_distribution(SHARES)  # it has no estimate to take
    np.testing.assert_allclose(of_fixed(1), first, atol=1e-5)


@pytest.mark.parametrize(
    ("shares", "temperature"),
    [
        (np.array(LABELED) / 14, EQUAL_IMBALANCE),
        ([0.5, 0.3, 0.2], EQUAL_IMBALANCE),
        ([1 / 3, 1 / 3, 1 / 3], OTHER_IMBALANCE),
        (SHARES, OTHER_IMBALANCE),
    ],
)
def test_daso_chooses_its_temperature_by_the_estimate(shares, temperature):
    daso = DASOPseudoLabeler(
        queue_size=2,
        distribution_temperature="auto",
        pretrain_steps=0,
        labeled_distribution=LABELED,
    )
    fixed = DASOPseudoLabeler(queue_size=2, distribution_temperature=temperature, pretrain_steps=0)
    targets = []
    for labeler in (daso, fixed):
        step = called(labeler)
        step(0)
        labeler.distribution.in_force.assign([5.0, 3.0, 1.0])
        labeler.observe(tf.eye(3, 2), tf.constant([0, 1, 2]))
        labeler.set_class_distribution(np.asarray(shares))
        targets.append(step(1))
    np.testing.assert_array_equal(*targets)
    assert DASOPseudoLabeler.from_config(daso.get_config()).distribution_temperature == "auto"


def test_auto_needs_the_labeled_images():
    with pytest.raises(ValueError, match="needs labeled_distribution"):
        DASOPseudoLabeler(distribution_temperature="auto")


def learner(**given):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    return daso_tf.FixMatch(
        keras.Model(image, features), 3, labeled_counts=LABELED, **STATISTICS, **given
    )


IMAGES = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), np.uint8)


def test_logit_adjustment_at_test_time_answers_for_the_estimate(tmp_path):
    plain = learner().predict(IMAGES, verbose=0)
    adjusted = learner(test_logit_adjustment=1.0, estimated_prior=True)
    # The labeled distribution until there is an estimate: it undoes the adjustment.
    np.testing.assert_allclose(adjusted.predict(IMAGES, verbose=0), plain, rtol=1e-5)
    adjusted.set_class_distribution(SHARES)
    expected = plain / LABELED * SHARES
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(adjusted.predict(IMAGES, verbose=0), expected, rtol=1e-5)
    adjusted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), expected, rtol=1e-5)

    unadjusted = learner(estimated_prior=True)  # nothing to answer for
    unadjusted.set_class_distribution(SHARES)
    np.testing.assert_allclose(unadjusted.predict(IMAGES, verbose=0), plain, rtol=1e-6)


def test_logit_adjustment_in_training_answers_for_the_estimate_and_keeps_its_loss():
    plain = learner().predict(IMAGES, verbose=0)
    loss = LogitAdjustedLoss(LABELED)
    model = learner(supervised_loss=loss, estimated_prior=True)
    model.set_class_distribution(SHARES)
    expected = plain * SHARES / (plain * SHARES).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-5)
    assert model.supervised_loss.labeled_counts == tuple(LABELED)


def test_remixmatch_gives_the_estimate_to_its_alignment():
    alignment = daso_tf.pseudo_labels.DistributionAlignment(LABELED, estimated=True)
    image = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    model = daso_tf.ReMixMatch(
        keras.Model(image, features), 3, distribution_alignment=alignment, **STATISTICS
    )
    model.set_class_distribution(SHARES)
    np.testing.assert_allclose(alignment.estimated_distribution.numpy(), SHARES, rtol=1e-6)


def test_an_estimate_needs_to_find_the_held_out_images():
    rng = np.random.default_rng(2)

    def answers(labels, noise):
        logits = rng.normal(2.5 * np.eye(3)[labels], noise)
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    held_out, truth = np.repeat([0, 1, 2], [80, 40, 20]), np.repeat([0, 1, 2], [100, 150, 250])
    found = confirmed_shares(answers(held_out, 1), held_out, answers(truth, 1))
    np.testing.assert_allclose(found, SHARES, atol=0.05)
    few = np.repeat([0, 1, 2], [7, 3, 2])
    noise = rng.dirichlet(np.ones(3), 12)
    assert confirmed_shares(noise, few, noise) is None


def test_images_of_no_class_are_left_out_of_the_estimate(monkeypatch):
    model = learner(
        pseudo_labeler=AlignedPseudoLabeler(LABELED, estimated=True),
        open_set=open_set.LargestProbability(),
    )
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    rng = np.random.default_rng(4)
    held_out, unlabeled = (rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for n in (12, 20))
    labels = rng.integers(0, 3, 12)
    data = types.SimpleNamespace(
        validation=daso_tf.data.Images(held_out, labels),
        unlabeled=daso_tf.data.Images(unlabeled, np.full(20, -1)),
    )
    asked = []
    monkeypatch.setattr(
        distribution_estimate, "confirmed_shares", lambda *given: (asked.append(given), SHARES)[1]
    )
    predict = Prediction(model, batch_size=8)
    estimate = distribution_estimate.DistributionEstimate(predict, data, first_step=0)
    of_held_out, of_unlabeled = model.predict(held_out), model.predict(unlabeled)
    limit = 1 - np.median(of_unlabeled.max(axis=1))
    for limit_now, (known, belongs) in (
        (None, (np.ones(12, bool), np.ones(20, bool))),
        (limit, [1 - of.max(axis=1) <= limit for of in (of_held_out, of_unlabeled)]),
    ):
        if limit_now is not None:
            model.open_set.limit.assign(limit_now)
        np.testing.assert_allclose(estimate(model), SHARES)
        expected = (of_held_out[known], labels[known], of_unlabeled[belongs])
        for found, of in zip(asked.pop(), expected, strict=True):
            np.testing.assert_allclose(found, of, rtol=1e-4)
    assert belongs.sum() == 10 and 0 < known.sum() < 12
    model.open_set.limit.assign(-1.0)
    assert estimate(model) is None and not asked


# ---- The train command

ESTIMATED = {
    "pseudo_labeler": "distribution_alignment",
    "unlabeled_distribution": "estimate",
    "test_logit_adjustment": 1.0,
    "estimate_start": 0.5,
    "steps": 6,
    "evaluate_every": 2,
}


def arrays(model_dir, step):
    with np.load(model_dir / "checkpoints" / f"step_{step:08d}.npz") as file:
        return {name: file[name] for name in file.files}


def test_a_run_estimates_from_a_share_of_it_on_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    def shares(held_out, labels, unlabeled):  # these networks are too bad for an estimate
        return unlabeled.astype(np.float64).mean(axis=0)

    monkeypatch.setattr(distribution_estimate, "confirmed_shares", shares)
    command = arguments(**ESTIMATED, model_dir=tmp_path / "run")
    assert run_train(*command) == 0
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    found = [entry["unlabeled_distribution"] for entry in content["evaluations"]]
    assert found[0] is None and found[1] != found[2]  # after the steps 2, 4 and 6
    expected = arrays(tmp_path / "run", 6)
    estimates = [a for a in expected.values() if a.shape == (10,) and np.allclose(a, found[2])]
    assert len(estimates) == 2  # of the alignment, and of the answers

    (tmp_path / "run" / "checkpoints" / "step_00000006.npz").unlink()
    assert run_train(*command) == 0
    for name, array in arrays(tmp_path / "run", 6).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"pseudo_labeler": "darp", "unlabeled_distribution": "estimate"}, "--unlabeled_dist"),
        ({"pseudo_labeler": "daso", "distribution_temperature": "auto"}, "--distribution_temp"),
    ],
)
def test_an_estimate_needs_validation_images(given, flag, tmp_path, capsys):
    command = arguments(**given, validation_size=0, model_dir=tmp_path / "run")
    assert run_train(*command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert flag in line and "needs validation images" in line and "--validation_size" in line
    assert not (tmp_path / "run").exists()


def test_an_estimate_that_nothing_takes_is_refused():
    nothing = completed(*arguments(unlabeled_distribution="estimate"))
    with pytest.raises(ValueError, match=r"estimate has no effect.*--test_logit_adjustment"):
        limits.check_effects(nothing)
    for taken in ({"logit_adjustment": 1.0}, {"test_logit_adjustment": 1.0}):
        settings = completed(*arguments(unlabeled_distribution="estimate", **taken))
        limits.check_effects(settings)
        assert methods.estimates(settings)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1e39", "automatic"])
def test_a_temperature_is_a_number_or_auto(value, tmp_path, capsys):
    command = arguments(distribution_temperature=value, model_dir=tmp_path / "run")
    assert run_train(*command) == 2
    assert "distribution_temperature" in capsys.readouterr().err
    assert completed(*arguments(distribution_temperature="auto")).distribution_temperature == "auto"
    assert completed(*arguments(distribution_temperature="0.5")).distribution_temperature == 0.5
