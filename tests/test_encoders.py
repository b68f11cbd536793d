"""Encoders: the network of the paper, and custom ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf.encoders import BatchNormalization, build, wide_resnet
from daso_tf.encoders.applications import ApplicationsInput

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def test_wide_resnet_28_2_is_the_network_of_the_benchmarks():
    encoder = wide_resnet(28, 2)
    assert encoder.output_shape == (None, 128)
    # With the classifier of 10 classes: 1,467,610, the number published for WRN-28-2.
    assert sum(int(np.prod(w.shape)) for w in encoder.trainable_weights) == 1_467_610 - 1_290


def test_initial_weights_are_he_normal_and_independent():
    keras.utils.set_random_seed(3)
    encoder = wide_resnet(16, 4)
    kernels = [np.array(w) for w in encoder.weights if len(w.shape) == 4]
    for kernel in kernels:
        fan_out = kernel.shape[0] * kernel.shape[1] * kernel.shape[3]
        spread = np.std(kernel) / np.sqrt(2 / fan_out)
        assert spread == pytest.approx(1, abs=6 / np.sqrt(kernel.size))
    for index, kernel in enumerate(kernels):
        for other in kernels[:index]:
            if kernel.shape == other.shape:
                correlation = np.corrcoef(kernel.ravel(), other.ravel())[0, 1]
                assert abs(correlation) < 6 / np.sqrt(kernel.size)
    keras.utils.set_random_seed(3)
    for ours, again in zip(encoder.weights, wide_resnet(16, 4).weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(again))


@pytest.mark.parametrize("depth", [9, 11, 4, 29])
def test_wide_resnet_refuses_a_depth(depth):
    with pytest.raises(ValueError, match=str(depth)):
        wide_resnet(depth, 1)


def test_wide_resnet_refuses_a_width():
    with pytest.raises(ValueError, match="width must be at least 1, not 0"):
        wide_resnet(10, 0)


def numpy_convolution(x, kernel, stride):
    """A convolution as PyTorch has it: padded by half the kernel on every side."""
    pad = kernel.shape[0] // 2
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows[:, ::stride, ::stride], kernel)


def test_wide_resnet_against_numpy():
    """The whole of WRN-10-1 in inference mode, on an even and an odd size."""
    for size in (8, 9):
        encoder = wide_resnet(10, 1, (size, size, 3))
        rng = np.random.default_rng(size)
        for weight in encoder.weights:
            spread = rng.uniform(0.5, 1.5, weight.shape)
            weight.assign(spread if "variance" in weight.name else spread - 1.0)
        layer = {
            layer.name: [np.float64(w) for w in layer.get_weights()] for layer in encoder.layers
        }

        def activated(x, name, layer=layer):
            gamma, beta, mean, variance = layer[name]
            x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
            return np.where(x > 0, x, 0.1 * x)

        images = rng.normal(size=(2, size, size, 3))
        x = numpy_convolution(images, *layer["init_conv"], 1)
        for group, stride in ((1, 1), (2, 2), (3, 2)):
            name = f"group{group}_block0"
            inner = activated(x, f"{name}_norm1")
            shortcut = inner if group == 1 else x
            if f"{name}_shortcut" in layer:
                shortcut = numpy_convolution(shortcut, *layer[f"{name}_shortcut"], stride)
            inner = numpy_convolution(inner, *layer[f"{name}_conv1"], stride)
            inner = activated(inner, f"{name}_norm2")
            x = shortcut + numpy_convolution(inner, *layer[f"{name}_conv2"], 1)
        expected = activated(x, "final_norm").mean(axis=(1, 2))
        ours = encoder(tf.constant(images, tf.float32), training=False)
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_normalization_keeps_pytorchs_statistics(compiled):
    """Normalizes by the biased variance, remembers the unbiased one."""
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, size=(2, 3, 1, 4)).astype(np.float32)
    layer = BatchNormalization(momentum=0.9)
    layer.build(x.shape)
    step = tf.function(lambda x: layer(x, training=True), jit_compile=compiled)
    y = step(tf.constant(x)).numpy()
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance * 6 / 5, rtol=1e-5)
    inference = layer(tf.constant(x), training=False)
    expected = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * variance * 6 / 5 + 1e-5)
    np.testing.assert_allclose(inference, expected, rtol=1e-4, atol=1e-5)


def test_frozen_batch_normalization_keeps_its_statistics():
    layer = BatchNormalization()
    layer.build((None, 2, 2, 3))
    layer.trainable = False
    x = tf.random.stateless_normal((4, 2, 2, 3), seed=(1, 2))
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


@pytest.mark.parametrize(
    ("name", "features"),
    [("wrn_10_1", 64), ("wrn_16_2", 128), ("applications:MobileNetV3Small", 576)],
)
def test_build_by_name(name, features):
    assert build(name, 32, MEAN, STD).output_shape == (None, features)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, "Allowed: wrn_DEPTH_WIDTH,.*; resnet_DEPTH with 18,.*; applications:NAME with")
            for name in ("vit", "wrn_28", "xwrn_28_2", "wrn_28_2_1")
        ),
        ("wrn_12_1", r"depth of a wide residual network must be 6n \+ 4: .*, not 12\."),
        ("applications:NoSuchNet", "no network 'NoSuchNet'. Allowed: .*MobileNetV3Small"),
    ],
)
def test_build_refuses_an_unknown_name(name, message):
    with pytest.raises(ValueError, match=message):
        build(name, 32, MEAN, STD)


def test_applications_see_the_images_as_they_were_made_for():
    """MobileNetV2 takes -1..1: normalized images come out as x / 127.5 - 1."""
    encoder = build("applications:MobileNetV2", 32, MEAN, STD)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    normalized = (images / 255 - np.float32(MEAN)) / np.float32(STD)
    seen = encoder.get_layer("application_input")(tf.constant(normalized))
    np.testing.assert_allclose(seen, images / 127.5 - 1, atol=1e-5)


def test_encoder_weights_round_trip(tmp_path):
    encoder = build("wrn_10_1", 16, MEAN, STD)
    path = tmp_path / "encoder.weights.h5"
    encoder.save_weights(path)
    again = build("wrn_10_1", 16, MEAN, STD, weights=str(path))
    for ours, theirs in zip(encoder.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="could not be loaded into wrn_10_2"):
        build("wrn_10_2", 16, MEAN, STD, weights=str(path))
    with pytest.raises(ValueError, match=r"nowhere\.weights\.h5"):
        build("wrn_10_1", 16, MEAN, STD, weights=str(tmp_path / "nowhere.weights.h5"))


@keras.saving.register_keras_serializable(package="tests")
class SubclassedEncoder(keras.Model):
    """An encoder of somebody's own, not made by the functional API."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.convolution = keras.layers.Conv2D(width, 3)
        self.norm = keras.layers.BatchNormalization()
        self.pool = keras.layers.GlobalAveragePooling2D()

    def call(self, images, training=False):
        return self.pool(self.norm(self.convolution(images), training=training))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@pytest.mark.parametrize(
    "encoder",
    [
        SubclassedEncoder(),
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.Dropout(0.5, seed=1),
                keras.layers.GlobalMaxPooling2D(),
            ]
        ),
    ],
    ids=["subclassed", "sequential with dropout"],
)
def test_anybodys_encoder_trains(encoder):
    model = daso_tf.DASO(encoder, 3, resolution=8, pretrain_steps=0, queue_size=2, **STATISTICS)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    rng = np.random.default_rng(0)
    labeled = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    unlabeled = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    before = [np.array(weight) for weight in encoder.trainable_weights]
    logs = model.train_on_batch((labeled, unlabeled), np.array([0, 1, 2, 0]), return_dict=True)
    assert np.isfinite(logs["loss"])
    changed = [
        (old != np.array(new)).any()
        for old, new in zip(before, encoder.trainable_weights, strict=True)
    ]
    assert any(changed)


def test_an_encoder_that_gives_no_vectors_is_refused():
    encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match=r"global average pooling"):
        daso_tf.FixMatch(encoder, 3, **STATISTICS)


def test_an_encoder_of_unknown_size_needs_a_resolution():
    encoder = wide_resnet(10, 1, (None, None, 3))
    with pytest.raises(ValueError, match="resolution="):
        daso_tf.FixMatch(encoder, 3, **STATISTICS)
    assert daso_tf.FixMatch(encoder, 3, resolution=16, **STATISTICS).resolution == 16


def test_batch_normalization_is_accurate_on_large_batches():
    """Against float64: one float32 sum over the 300,000 pixels of a channel would err by more."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(96, 56, 56, 2)) + 3.0).astype(np.float32)
    layer = BatchNormalization()
    y = np.array(layer(tf.constant(x), training=True), np.float64)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    assert np.abs(y - exact).max() < 3e-6


@pytest.mark.parametrize("negative_slope", [None, 0.0, 0.1])
@pytest.mark.parametrize("compiled", ["nothing", "batch_norm", "step"])
def test_batch_normalizations_gradient_is_that_of_its_formula(compiled, negative_slope):
    """Against finite differences of the formula in float64."""
    rng = np.random.default_rng(2)
    x, weights = rng.normal(1.0, 2.0, (3, 2, 2, 2)), rng.normal(size=(3, 2, 2, 2))
    gamma, beta = np.array([0.7, -1.3]), np.array([0.2, 0.5])

    def formula(x, gamma, beta):
        normalized = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        y = gamma * normalized + beta
        if negative_slope is not None:
            y = np.where(y > 0, y, negative_slope * y)
        return (weights * y).sum()

    layer = BatchNormalization(negative_slope=negative_slope)
    layer.jit_compile = compiled == "batch_norm"
    layer.build(x.shape)
    layer.gamma.assign(gamma.astype(np.float32))
    layer.beta.assign(beta.astype(np.float32))

    @tf.function(jit_compile=compiled == "step")
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(weights.astype(np.float32) * layer(x, training=True))
        return tape.gradient(total, [x, *layer.trainable_variables])

    found = gradients(tf.constant(x, tf.float32))
    arguments = [x, gamma, beta]
    for place, argument in enumerate(arguments):
        for index in np.ndindex(argument.shape):
            step = np.zeros_like(argument)
            step[index] = 1e-5
            ends = []
            for moved in (argument + step, argument - step):
                ends.append(formula(*(*arguments[:place], moved, *arguments[place + 1 :])))
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(found[place][index], slope, atol=1e-4)


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("compiled", ["nothing", "batch_norm", "step"])
@pytest.mark.parametrize("training", [False, True])
def test_batch_normalization_of_a_sum_is_that_of_an_addition_before_it(compiled, precise, training):
    """The outputs, the sum, the running statistics and all gradients."""
    rng = np.random.default_rng(3)
    pair = [tf.constant(rng.normal(1.0, 2.0, (3, 4, 2, 2)), tf.float32) for _ in range(2)]
    weights = tf.constant(rng.normal(size=(2, 3, 4, 2, 2)), tf.float32)
    layers = [BatchNormalization(negative_slope=0.1) for _ in range(2)]
    layers[0].build([pair[0].shape, pair[1].shape])
    layers[1].build(pair[0].shape)
    for layer in layers:
        layer.jit_compile, layer.precise = compiled == "batch_norm", precise
        layer.gamma.assign([0.7, -1.3])

    @tf.function(jit_compile=compiled == "step")
    def results(layer, separate):
        with tf.GradientTape() as tape:
            tape.watch(pair)
            if separate:
                total = tf.add(*pair)
                outputs = layer(total, training=training)
            else:
                outputs, total = layer(pair, training=training)
            loss = tf.reduce_sum(weights * tf.stack([outputs, total**2]))
        return outputs, total, tape.gradient(loss, [*pair, layer.gamma, layer.beta])

    ours, expected = results(layers[0], False), results(layers[1], True)
    for found, wanted in zip(tf.nest.flatten(ours), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)
    for found, wanted in zip(layers[0].get_weights(), layers[1].get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_batch_normalization_is_exact_where_the_mean_is_far_from_zero(compiled):
    """Also where the first image is unlike the others, and where a channel is constant."""
    rng = np.random.default_rng(4)
    x = rng.normal([1000.0, -3.0, 0.0], 1.0, (64, 16, 16, 3)).astype(np.float32)
    x[0, ..., 1] += 20.0
    x[..., 2] = 7.0
    layer = BatchNormalization()
    layer.jit_compile = compiled
    y = np.array(layer(tf.constant(x), training=True), np.float64)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=2e-4)
    np.testing.assert_allclose(y[..., 1], exact[..., 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shapes", [[(2, 4)] * 3, [(2, 4), (2, 5)]])
def test_batch_normalization_refuses_what_it_cannot_add(shapes):
    with pytest.raises(ValueError, match=r"one input, or two of the same shape.*\(2, 4\), \(2"):
        BatchNormalization().build(shapes)


def test_batch_normalization_activates_in_inference_too():
    x = tf.random.stateless_normal((4, 2, 2, 3), seed=(1, 2))
    config = BatchNormalization(negative_slope=0.2, synchronized=False).get_config()
    layer = BatchNormalization.from_config(config)
    assert not layer.synchronized
    expected = np.where(x > 0, x, 0.2 * x) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(layer(x, training=False), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.1}, r"momentum must be in \[0, 1\], not 1.1"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\], not -0.1"),
        ({"epsilon": -1e-5}, "epsilon must be at least 0, not -1e-05"),
        ({"negative_slope": 1}, r"negative_slope must be in \[0, 1\), not 1"),
        ({"renorm": True}, "renorm must be False"),
    ],
)
def test_batch_normalization_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchNormalization(**arguments)


def test_batch_normalization_refuses_channels_that_are_not_last():
    BatchNormalization(axis=3).build((None, 2, 2, 3))
    with pytest.raises(ValueError, match=r"axis must be the last one, -1 or 3 .*, not 1\."):
        BatchNormalization(axis=1).build((None, 2, 2, 3))


@pytest.mark.parametrize("built", [False, True])
def test_batch_normalization_returns_from_its_configuration(built):
    layer = BatchNormalization(
        0.8, 1e-3, False, 0.1, center=False, gamma_initializer="zeros", beta_regularizer="l2"
    )
    if built:
        layer.build((None, 2, 2, 3))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is BatchNormalization
    assert again.get_config() == layer.get_config()
    assert (again.momentum, again.synchronized, again.negative_slope) == (0.8, False, 0.1)
    assert not again.center


def test_applications_input_returns_from_its_configuration():
    layer = ApplicationsInput("MobileNetV2", MEAN, STD, name="input")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is ApplicationsInput
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("NoSuchNet", MEAN, STD), "no network 'NoSuchNet'. Allowed: .*MobileNetV3Small"),
        (("MobileNetV2", (125, 123, 114), STD), r"mean must be .*by 255\.$"),
        (("MobileNetV2", MEAN, (0.2, 0.0, 0.2)), r"std must be three numbers in \(0, 1\]"),
    ],
)
def test_applications_input_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ApplicationsInput(*arguments)


@pytest.mark.parametrize("shape", [(6, 3), (6, 5, 3), (6, 4, 5, 3), (6, 2, 4, 5, 3)])
def test_batch_normalization_of_any_rank(shape):
    x = np.random.default_rng(0).normal(2.0, 3.0, shape).astype(np.float32)
    axes = tuple(range(len(shape) - 1))
    y = BatchNormalization()(tf.constant(x), training=True)
    expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


# Rows that divide into parts of up to eight, and rows that do not.
@pytest.mark.parametrize(
    "shape", [(6, 3), (6, 5, 3), (6, 24, 5, 3), (6, 11, 5, 3), (6, 2, 4, 5, 3)]
)
@pytest.mark.parametrize("rows_are_known", [True, False])
def test_compiled_batch_normalization_has_the_same_gradients(shape, rows_are_known):
    rng = np.random.default_rng(0)
    x, weights = (tf.constant(rng.normal(1.0, 2.0, shape), tf.float32) for _ in range(2))
    found = []
    for compiled in (False, True):
        layer = BatchNormalization(negative_slope=0.1)
        layer.jit_compile = compiled
        layer.build((None, *[None] * (len(shape) - 2), shape[-1]))
        signature = shape if rows_are_known else [*[None] * (len(shape) - 1), shape[-1]]

        @tf.function(input_signature=[tf.TensorSpec(signature)])
        def gradients(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(weights * layer(x, training=True))
            return tape.gradient(total, [x, *layer.trainable_variables])

        found.append(gradients(x))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_batch_normalization_of_low_precision_counts_in_float32():
    x = tf.random.stateless_normal((16, 8, 8, 2), seed=(1, 2)) + 100.0
    layer = BatchNormalization(dtype="mixed_bfloat16")
    y = layer(x, training=True)
    seen = np.array(tf.cast(tf.cast(x, tf.bfloat16), tf.float64))
    assert y.dtype == tf.bfloat16 and layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(layer.moving_mean, 0.1 * seen.mean((0, 1, 2)), rtol=1e-6)
    exact = (seen - seen.mean((0, 1, 2))) / np.sqrt(seen.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(tf.cast(y, tf.float64), exact, atol=0.02)
