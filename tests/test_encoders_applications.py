"""The published weights of keras.applications, from files and offline."""

import importlib
import socket

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS

from daso_tf import encoders
from daso_tf.platform.keras_versions import KERAS_3


@pytest.fixture(scope="module")
def encoder():
    return encoders.application("VGG16", 32, **STATISTICS)


def backbone_of(encoder):
    return next(layer for layer in encoder.layers if isinstance(layer, keras.Model))


@pytest.fixture
def published(encoder, tmp_path):
    """A file in the layout in which keras.applications publishes weights."""
    path = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with h5py.File(path, "w") as file:
        layers = backbone_of(encoder).layers
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["keras_version"], file.attrs["backend"] = b"2.0.0", b"tensorflow"
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}_{place}" for place in range(len(layer.weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights(), strict=True):
                group[name] = weight + 1
    return str(path)


def test_a_published_file_is_loaded(encoder, published):
    again = encoders.build("applications:VGG16", 32, **STATISTICS, weights=published)
    pairs = zip(encoder.get_weights(), again.get_weights(), strict=True)
    assert all((ours + 1 == theirs).all() for ours, theirs in pairs)


def test_a_file_of_the_encoder_itself_is_loaded(encoder, tmp_path):
    path = tmp_path / "encoder.weights.h5"
    encoder.save_weights(path)
    again = encoders.application("VGG16", 32, weights=path)
    images = tf.constant(np.random.default_rng(0).uniform(size=(1, 32, 32, 3)), tf.float32)
    mean, std = STATISTICS.values()
    np.testing.assert_allclose(  # of images in [0, 1], as nothing else was said
        again(images), encoder((images - mean) / std), rtol=1e-4, atol=1e-4
    )


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "damaged_notop.h5"
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"damaged_notop\.h5 could not be loaded into appl"):
        encoders.build("applications:VGG16", 32, weights=str(path))


def test_offline_the_place_of_the_file_is_named_at_once(tmp_path, monkeypatch):
    def offline(*_, **__):
        timeouts.append(socket.getdefaulttimeout())
        raise socket.gaierror(-2, "Name or service not known")

    timeouts, before = [], socket.getdefaulttimeout()
    monkeypatch.setenv("HOME", str(tmp_path))
    if KERAS_3:
        config = importlib.import_module("keras.src.backend.config")
        monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path / ".keras"))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    file = r"vgg16_weights_tf_dim_ordering_tf_kernels_notop\.h5"
    with pytest.raises(ValueError, match=rf"VGG16 are not available: .*Put {file} into .*models"):
        encoders.build("applications:VGG16", 32, weights="imagenet")
    assert timeouts == [5.0] and socket.getdefaulttimeout() == before


def test_weights_that_are_no_file_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"no file imagnet.*: none, imagenet, or the path"):
        encoders.check("applications:VGG16", "imagnet")
