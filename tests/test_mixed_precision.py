"""The encoder in bfloat16 or float16, everything else in float32."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from dense_learner import SIZE, K, dense_learner

import daso_tf
from daso_tf.encoders.precision import computes_in, dtype_policy
from daso_tf.platform.keras_versions import loss_scale_variables, optimizer_variables
from daso_tf.pseudo_labels import DASOPseudoLabeler, DistributionAlignment
from daso_tf.run.callbacks import StopAtNonFiniteLoss
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.thresholds import FreeMatchThreshold

B, MU, STEPS = 4, 2, 4
POLICIES = ["mixed_bfloat16", "mixed_float16"]


def sgd():
    return keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)


def learner(policy=None, everything=False, optimizer=None, jit_compile=False, **settings):
    """Makes a small convolutional learner; the policy is of its encoder, or of everything."""
    keras.utils.set_random_seed(1)
    with dtype_policy(policy):
        image = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Conv2D(4, 3, strides=2)(image)
        x = keras.layers.ReLU()(daso_tf.encoders.BatchNormalization()(x))
        encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    with dtype_policy(policy if everything else None):
        model = daso_tf.FixMatch(
            encoder,
            K,
            DASOPseudoLabeler(queue_size=3, pretrain_steps=2, distribution_period=2),
            strong=daso_tf.augment.RandAugment(num_ops=0, cutout=2),
            threshold=FreeMatchThreshold(),
            **STATISTICS,
            **settings,
        )
        model.compile(optimizer or sgd(), jit_compile=jit_compile)
    return model


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (B + MU * B, SIZE, SIZE, 3), dtype=np.uint8)
    return (images[:B], images[B:]), rng.integers(0, K, B).astype(np.int32)


def train(model, steps):
    for step in steps:
        logs = model.train_on_batch(*batch(step), return_dict=True)
    return {name: float(value) for name, value in logs.items()}


@functools.cache
def trained(policy, everything=False):
    model = learner(policy, everything)
    return model, train(model, range(STEPS))


def values(variables):
    return [np.array(variable) for variable in variables]


def assert_equal(ours, theirs):
    for a, b in zip(values(ours), values(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", POLICIES)
def test_learner_trains_nearly_as_in_float32(policy):
    model, logs = trained(policy)
    single, single_logs = trained(None)
    assert computes_in(model.encoder, policy.removeprefix("mixed_"))
    assert computes_in(model.ema_encoder, policy.removeprefix("mixed_"))
    for variable in (*model.weights, *model.optimizer.variables):
        dtype = tf.as_dtype(variable.dtype)
        assert dtype == tf.float32 or dtype.is_integer
    assert logs == pytest.approx(single_logs, rel=0.05, abs=0.02)
    for ours, theirs in zip(values(model.weights), values(single.weights), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02)
    images = batch(9)[0][1]
    probabilities = model.predict(images, verbose=0)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, single.predict(images, verbose=0), atol=0.02)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_of_the_user_changes_only_the_encoder(policy):
    model, logs = trained(policy, everything=True)
    only_encoder, expected = trained(policy)
    labeler = model.pseudo_labeler
    for layer in (
        model,
        model.classifier,
        labeler,
        labeler.prototype_classifier,
        labeler.distribution,
        model.threshold,
    ):
        assert layer.compute_dtype == "float32", layer.name
    assert logs == expected
    assert_equal(model.weights, only_encoder.weights)


def test_memories_are_float32_whatever_the_policy():
    with dtype_policy("mixed_bfloat16"):
        alignment = DistributionAlignment([2, 1, 1])
        alignment.build((None, 3))
        aligned = alignment(tf.constant([[0.5, 0.3, 0.2]]))
    assert aligned.dtype == tf.float32
    np.testing.assert_array_equal(alignment.batch_means[0], np.array([0.5, 0.3, 0.2], "f4"))


def test_scale_of_the_loss_cancels():
    plain, scaled = dense_learner(), dense_learner()
    scaled.compile(keras.mixed_precision.LossScaleOptimizer(sgd()), jit_compile=False)
    logs = [train(model, range(3)) for model in (plain, scaled)]
    assert logs[0] == logs[1] and logs[0]["gradient_norm"] > 0
    assert_equal(plain.weights, scaled.weights)
    assert_equal(*(optimizer_variables(model.optimizer) for model in (plain, scaled)))


def test_step_outside_the_range_of_float16_is_skipped_and_training_continues():
    scaling = keras.mixed_precision.LossScaleOptimizer(sgd(), initial_scale=2.0**28)
    model = learner("mixed_float16", optimizer=scaling)
    parameters = values(model.trainable_variables)
    averages = values(model.ema_encoder.trainable_variables)
    kernels = [v for v in optimizer_variables(scaling) if len(v.shape)]  # the momentum
    logs = train(model, [0])
    assert int(model.step) == 1
    assert np.isfinite(list(logs.values())).all() and logs["gradient_norm"] == 0
    assert_equal(model.trainable_variables, parameters)
    assert_equal(model.ema_encoder.trainable_variables, averages)
    assert all((value == 0).all() for value in values(kernels))
    assert float(loss_scale_variables(scaling)[0]) == 2.0**27

    batches = tf.data.Dataset.from_tensors(batch(1)).repeat(20)
    history = model.fit(batches, callbacks=[StopAtNonFiniteLoss()], verbose=0).history
    assert history["gradient_norm"][0] > 0 and np.isfinite(history["gradient_norm"][0])
    for before, now in zip(parameters, values(model.trainable_variables), strict=True):
        assert np.isfinite(now).all() and (now != before).any()


def test_microbatches_and_xla_in_float16():
    model = learner("mixed_float16", microbatches=2, jit_compile=True)
    logs = train(model, range(2))
    assert np.isfinite(list(logs.values())).all() and logs["gradient_norm"] > 0


def test_run_may_change_its_precision_at_a_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    half, _ = trained("mixed_float16")
    loss_scale_variables(half.optimizer)[0].assign(2.0**9)
    checkpoints.save(half)
    for policy in ("mixed_float16", "mixed_bfloat16", None):
        model = learner(policy)
        assert checkpoints.restore(model)
        assert_equal(model.network_weights, half.network_weights)
        assert_equal(model.pseudo_labeler.weights, half.pseudo_labeler.weights)
        assert_equal(*(optimizer_variables(twin.optimizer) for twin in (model, half)))
        for scale in loss_scale_variables(model.optimizer)[:1]:
            assert float(scale) == 2.0**9
    checkpoints.save(model)  # in float32, without a scale
    assert checkpoints.restore(learner("mixed_float16"))


def test_loaded_model_trains_in_the_same_precision(tmp_path):
    model, _ = trained("mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    original = keras.saving.load_model(tmp_path / "model.keras")
    assert computes_in(again.encoder, "bfloat16")
    assert train(again, (7, 8)) == train(original, (7, 8))
    assert_equal(again.weights, original.weights)
    images = batch(9)[0][1]
    again.export(tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    probabilities = serve(images=tf.constant(images))["probabilities"]
    assert probabilities.dtype == tf.float32
    np.testing.assert_allclose(probabilities, again.predict(images, verbose=0), atol=1e-6)


@pytest.mark.parametrize("name", ["wrn_10_1", "resnet_18", "applications:MobileNet"])
def test_encoders_accept_a_policy(name):
    statistics = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    encoder = daso_tf.encoders.build(name, 32, *statistics, dtype="mixed_bfloat16")
    assert keras.mixed_precision.global_policy().name == "float32"
    assert computes_in(encoder, "bfloat16")
    assert all(tf.as_dtype(weight.dtype) == tf.float32 for weight in encoder.weights)
    features = encoder(tf.zeros((2, 32, 32, 3)), training=True)
    assert np.isfinite(np.array(tf.cast(features, tf.float32))).all()
    if not name.startswith("applications"):
        assert features.dtype == tf.float32
