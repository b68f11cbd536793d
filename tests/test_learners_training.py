"""Learners in compiled steps: the rotation head, XLA, and arguments that are refused."""

import functools

import keras
import numpy as np
import pytest
from channels import STATISTICS

import daso_tf
from daso_tf.encoders.batch_normalization import BatchNormalization, batch_norms_of
from daso_tf.platform.keras_versions import jit_compiles
from daso_tf.pseudo_labels import AlignedPseudoLabeler, DASOPseudoLabeler, DistributionAlignment

B, K, SIZE = 4, 3, 8


def small_learner(name, jit_compile=False):
    keras.utils.set_random_seed(1)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(image)
    x = BatchNormalization(negative_slope=0.1)(x)
    features = keras.layers.GlobalAveragePooling2D()(x)
    strong = {"strong": daso_tf.augment.RandAugment(num_ops=0, cutout=3)}
    arguments = {
        "ReMixMatch": {
            **strong,
            "ramp_steps": 3,
            "distribution_alignment": DistributionAlignment([3, 2, 1]),
            "pseudo_labeler": DASOPseudoLabeler(3, pretrain_steps=2, distribution_period=2),
        },
        "USADTM": {**strong, "pretrain_steps": 1, "confidence_threshold": 0.2, "queue_size": 3},
        "Supervised": {},  # the step that XLA compiles fastest
    }[name]
    encoder = keras.Model(image, features)
    model = getattr(daso_tf, name)(encoder, K, seed=4, **STATISTICS, **arguments)
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True)
    model.compile(optimizer, jit_compile=jit_compile)
    return model


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (2 * B, SIZE, SIZE, 3), dtype=np.uint8)
    labels, truth = rng.integers(0, K, (2, B)).astype(np.int32)
    return (images[:B], images[B:]), (labels, truth)


def train(model, steps):
    """Trains the steps; returns the logs of the last one."""
    for step in steps:
        model.reset_metrics()
        logs = model.train_on_batch(*batch(step), return_dict=True)
    return {key: float(value) for key, value in logs.items()}


@functools.cache
def trained(name):
    """A learner after three steps, and the losses of the last one."""
    model = small_learner(name)
    return model, train(model, range(3))


def test_rotation_head_is_trained_and_averaged():
    model, _ = trained("ReMixMatch")
    heads = {}
    for when, learner in (("before", small_learner("ReMixMatch")), ("after", model)):
        assert len(learner.ema_network_weights) == len(learner.network_weights)
        heads[when] = [np.array(learner.rotation_head.kernel)]
        shape = heads[when][0].shape
        heads[when] += [np.array(w) for w in learner.ema_network_weights if w.shape == shape]
    (start, average_at_start), (kernel, average) = heads["before"], heads["after"]
    np.testing.assert_array_equal(start, average_at_start)
    assert (kernel != start).any() and (average != start).any() and (average != kernel).any()


@pytest.mark.parametrize("jit_compile", [True, "batch_norm"])
@pytest.mark.parametrize("name", ["ReMixMatch", "USADTM"])
def test_xla_computes_the_same(name, jit_compile):
    _, plain = trained(name)
    compiled = train(small_learner(name, jit_compile=jit_compile), range(3))
    assert compiled == pytest.approx(plain, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("jit_compile", [True, "batch_norm", False])
def test_a_loaded_learner_is_compiled_like_the_saved_one(jit_compile, tmp_path):
    model = small_learner("Supervised", jit_compile)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert jit_compiles(again) == jit_compiles(model) == (jit_compile is True)
    of_norms = [norm.jit_compile for norm in batch_norms_of(again.encoder)]
    assert of_norms == [jit_compile == "batch_norm"]
    assert train(again, range(1)) == train(model, range(1))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Supervised", {"pseudo_labeler": DASOPseudoLabeler()}, "from the labeled images alone"),
        ("USADTM", {"pseudo_labeler": DASOPseudoLabeler()}, "the classes of the nearest templates"),
        ("PseudoLabel", {"threshold": -0.1}, r"threshold must be in \[0, 1\], not -0.1"),
        ("MixMatch", {"sharpening_temperature": 0.0}, "sharpening_temperature must be above 0"),
        ("MixMatch", {"mixup_beta": 0.0}, "mixup_beta must be above 0, not 0.0"),
        ("ReMixMatch", {"rotation_weight": -1.0}, "rotation_weight must be at least 0, not -1.0"),
        ("USADTM", {"mutual_information_weight": -1.0}, "must be at least 0, not -1.0"),
        ("USADTM", {"pretrain_steps": -1}, "pretrain_steps must be at least 0, not -1"),
        ("USADTM", {"confidence_threshold": 1.5}, r"confidence_threshold must be in \[0, 1\]"),
        ("USADTM", {"threshold": 0.5}, "FixedThreshold does not go with USADTM: its confidence is"),
        ("MixMatch", {"threshold": 0.5}, "FixedThreshold does not go with MixMatch: it does not"),
        (
            "ReMixMatch",
            {
                "pseudo_labeler": AlignedPseudoLabeler([3, 2, 1]),
                "distribution_alignment": DistributionAlignment([3, 2, 1]),
            },
            "DistributionAlignment does not go with AlignedPseudoLabeler: the predictions would be",
        ),
        ("Supervised", {"ramp_steps": 3}, "Supervised makes no pseudo-labels: leave out"),
    ],
)
def test_arguments_outside_their_range_are_refused(name, arguments, message):
    image = keras.Input((SIZE, SIZE, 3))
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    with pytest.raises(ValueError, match=message):
        getattr(daso_tf, name)(encoder, K, **STATISTICS, **arguments)


def test_batches_that_mixing_cannot_cut_are_refused():
    model = small_learner("ReMixMatch")
    (labeled, unlabeled), (labels, _) = batch(0)
    with pytest.raises(ValueError, match="13 images cannot be cut into batches of 4"):
        model.train_on_batch((labeled, unlabeled[:3]), labels)
