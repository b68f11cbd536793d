"""Encoders whose BatchNorm is part of their convolutions compute the same features."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from daso_tf import encoders


def small():
    """Every kind of pair, and BatchNorm that cannot be folded."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(image)
    x = encoders.BatchNormalization(negative_slope=0.1)(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    read_twice = keras.layers.Conv2D(8, 1)(x)
    x = keras.layers.Add()([keras.layers.BatchNormalization()(read_twice), read_twice])
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization(center=False)(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="small")


def with_random_weights(encoder):
    random = np.random.default_rng(0)
    for weight in encoder.weights:
        low = 0.5 if "variance" in weight.name or "gamma" in weight.name else -0.5
        weight.assign(random.uniform(low, 1.0, weight.shape))
    return encoder


@pytest.mark.parametrize(
    ("make", "gone"),
    [
        # Of a pair, gamma, beta, mean and variance go, and a bias may come.
        (small, 4 + 3 - 1),
        (lambda: encoders.wide_resnet(10, 1, (8, 8, 3)), 4 * 3),  # those in blocks, and the first
        (lambda: encoders.resnet(18, (8, 8, 3)), 60),
        (lambda: encoders.efficientnet_lite0((8, 8, 3), weights=None), 49 * 3),
    ],
    ids=["small", "wrn_10_1", "resnet_18", "efficientnet_lite0"],
)
def test_features_stay_the_same(make, gone):
    encoder = with_random_weights(make())
    before = encoder.get_weights()
    copy = encoders.folded(encoder)
    assert len(copy.weights) == len(encoder.weights) - gone
    images = tf.constant(np.random.default_rng(1).standard_normal([2, 8, 8, 3]), tf.float32)
    expected = encoder(images, training=False)
    features = copy(images, training=False)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for value, unchanged in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, unchanged)


@pytest.mark.parametrize(
    "encoder",
    [
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.BatchNormalization()]),
        keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.BatchNormalization()]),
    ],
    ids=["no convolution", "not built"],
)
def test_where_nothing_can_be_folded_the_encoder_itself_is_returned(encoder):
    assert encoders.folded(encoder) is encoder
