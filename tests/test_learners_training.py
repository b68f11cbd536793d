"""Every learner, alone and with DASO, in compiled steps: finite, saved, exported, under XLA."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import daso_tf
from daso_tf.encoders.batch_normalization import BatchNormalization
from daso_tf.pseudo_labels import DASOPseudoLabeler, DistributionAlignment

B, K, SIZE = 4, 3, 8
SETTINGS = {
    "Supervised": {},
    "PseudoLabel": {"ramp_steps": 3, "confidence_threshold": 0.2},
    "MeanTeacher": {"ramp_steps": 3},
    "MixMatch": {"ramp_steps": 3},
    "ReMixMatch": {"ramp_steps": 3},
    "FixMatch": {"confidence_threshold": 0.2},
    "USADTM": {"pretrain_steps": 1, "confidence_threshold": 0.2, "queue_size": 3},
}
STRONG = ("ReMixMatch", "FixMatch", "USADTM")
# FixMatch with DASO is what test_learners.py is about.
CASES = [
    ("Supervised", None),
    ("PseudoLabel", None),
    ("MeanTeacher", "daso"),
    ("MixMatch", "daso"),
    ("ReMixMatch", "daso"),
    ("USADTM", None),
]
ALONE = ["MeanTeacher", "MixMatch", "ReMixMatch"]


def small_learner(name, labeler=None, jit_compile=False):
    keras.utils.set_random_seed(1)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(image)
    features = keras.layers.GlobalAveragePooling2D()(BatchNormalization()(x))
    arguments = dict(SETTINGS[name])
    if name in STRONG:
        arguments["strong"] = daso_tf.augment.RandAugment(num_ops=0, cutout=3)
    if name == "ReMixMatch":
        arguments["distribution_alignment"] = DistributionAlignment([3, 2, 1])
    if labeler:
        arguments["pseudo_labeler"] = DASOPseudoLabeler(
            queue_size=3, pretrain_steps=2, distribution_period=2
        )
    model = getattr(daso_tf, name)(keras.Model(image, features), K, seed=4, **arguments)
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True)
    model.compile(optimizer, jit_compile=jit_compile)
    return model


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (2 * B, SIZE, SIZE, 3), dtype=np.uint8)
    labels, truth = rng.integers(0, K, (2, B)).astype(np.int32)
    return (images[:B], images[B:]), (labels, truth)


def train(model, steps):
    """Trains the steps; returns the losses of the last one."""
    for step in steps:
        model.reset_metrics()
        logs = model.train_on_batch(*batch(step), return_dict=True)
    return {key: float(value) for key, value in logs.items()}


@functools.cache
def trained(name, labeler):
    """A learner after three steps; the losses and the pseudo-labels of the last one."""
    model = small_learner(name, labeler)
    losses = train(model, range(3))
    counts = {kind: of.per_class() for kind, of in model.pseudo_label_statistics.items()}
    return model, losses, counts


@pytest.mark.parametrize(("name", "labeler"), [*CASES, *((name, None) for name in ALONE)])
def test_step_is_finite_and_counted(name, labeler):
    _, losses, pseudo_labels = trained(name, labeler)
    assert np.isfinite(list(losses.values())).all()
    parts = [losses[key] for key in losses if key.endswith("_loss")]
    assert losses["loss"] == pytest.approx(sum(parts), rel=1e-5)
    assert labeler is None or losses["alignment_loss"] > 0
    if name == "Supervised":
        assert not pseudo_labels and "mask_rate" not in losses
        return
    for kind in ("linear", "final"):
        assert pseudo_labels[kind]["assigned"].sum() == B
        truth = np.bincount(batch(2)[1][1], minlength=K)
        np.testing.assert_array_equal(pseudo_labels[kind]["true"], truth)


def test_rotation_head_is_trained_and_averaged():
    model, _, _ = trained("ReMixMatch", None)
    heads = {}
    for when, learner in (("before", small_learner("ReMixMatch")), ("after", model)):
        assert len(learner.ema_network_weights) == len(learner.network_weights)
        heads[when] = [np.array(learner.rotation_head.kernel)]
        shape = heads[when][0].shape
        heads[when] += [np.array(w) for w in learner.ema_network_weights if w.shape == shape]
    (start, average_at_start), (kernel, average) = heads["before"], heads["after"]
    np.testing.assert_array_equal(start, average_at_start)
    assert (kernel != start).any() and (average != start).any() and (average != kernel).any()


@pytest.mark.parametrize("name", ["ReMixMatch", "USADTM"])
def test_xla_computes_the_same(name):
    labeler = dict(CASES)[name]
    _, plain, _ = trained(name, labeler)
    compiled = train(small_learner(name, labeler, jit_compile=True), range(3))
    assert compiled == pytest.approx(plain, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(("name", "labeler"), CASES)
def test_saved_learner_is_whole_and_goes_on(name, labeler, tmp_path):
    model, _, _ = trained(name, labeler)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for argument in {*SETTINGS[name], "seed", "mean"} - {"confidence_threshold"}:
        assert again.get_config()[argument] == model.get_config()[argument]
    assert train(again, (3, 4)) == train(model, (3, 4))
    states = [[*learner.variables, *learner.optimizer.variables] for learner in (model, again)]
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))

    images = batch(9)[0][1]
    model.export(tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    probabilities = serve(images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(probabilities, model.predict(images, verbose=0), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Supervised", {"pseudo_labeler": DASOPseudoLabeler()}, "from the labeled images alone"),
        ("USADTM", {"pseudo_labeler": DASOPseudoLabeler()}, "the nearest templates' classes"),
        ("PseudoLabel", {"confidence_threshold": -0.1}, r"must be in \[0, 1\], not -0.1"),
        ("MixMatch", {"sharpening_temperature": 0.0}, "sharpening_temperature must be above 0"),
        ("MixMatch", {"mixup_beta": 0.0}, "mixup_beta must be above 0, not 0.0"),
        ("ReMixMatch", {"rotation_weight": -1.0}, "rotation_weight must be at least 0, not -1.0"),
        ("USADTM", {"mutual_information_weight": -1.0}, "must be at least 0, not -1.0"),
        ("USADTM", {"pretrain_steps": -1}, "pretrain_steps must be at least 0, not -1"),
    ],
)
def test_arguments_outside_their_range_are_refused(name, arguments, message):
    image = keras.Input((SIZE, SIZE, 3))
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    with pytest.raises(ValueError, match=message):
        getattr(daso_tf, name)(encoder, K, **arguments)


def test_batches_that_mixmatch_cannot_cut_are_refused():
    model = small_learner("MixMatch")
    (labeled, unlabeled), (labels, _) = batch(0)
    with pytest.raises(ValueError, match="10 images cannot be cut into batches of 4"):
        model.train_on_batch((labeled, unlabeled[:3]), labels)
