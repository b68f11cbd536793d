"""What XLA compiles by default."""

import keras
import pytest
import tensorflow as tf

from daso_tf.encoders import build, wide_resnet
from daso_tf.settings import compilation


def test_counts_the_operations_of_convolutions():
    inner = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(5, 1, use_bias=False)])
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3, strides=2, padding="same")(image)
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(inner(x)))
    assert compilation.operations(encoder) == 2 * (4 * 4 * 3 * 3 * 3 * 2 + 4 * 4 * 2 * 5)


def test_a_step_of_the_papers_network_is_440_gflop():
    forward = compilation.operations(wide_resnet(28, 2))
    assert (3 * 320 + 64) * forward == pytest.approx(440e9, rel=0.01)


def test_counts_those_of_keras_applications():
    encoder = build("applications:MobileNetV3Small", 64, (0.5,) * 3, (0.2,) * 3)
    assert 1e6 < compilation.operations(encoder) < 1e8


def test_the_step_on_a_gpu_and_batch_norm_in_long_runs_on_a_cpu(monkeypatch):
    encoder = wide_resnet(10, 1, (16, 16, 3))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    assert compilation.best(encoder, images=1000) is False
    assert compilation.best(encoder, images=10**7) == "batch_norm"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [kind])
    assert compilation.best(encoder, images=1000) is True
    assert compilation.best(encoder, images=1000, whole=False) == "batch_norm"
