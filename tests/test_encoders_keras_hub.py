"""Backbones of KerasHub as encoders: small ones with random weights, saved as local presets."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, completed, run_train

import daso_tf
from daso_tf import encoders
from daso_tf.platform.keras_versions import KERAS_3

SIDE = 32
SCALE, OFFSET = [1 / 50, 1 / 60, 1 / 70], [-2.0, -1.5, -1.0]


def hub():
    if not KERAS_3:
        pytest.skip("KerasHub needs Keras 3")
    return pytest.importorskip("keras_hub", reason="the extra hub is not installed")


def vit(models):
    return models.ViTBackbone((SIDE, SIDE, 3), 16, 1, 2, 8, 16)


def vit_without_class_token(models):
    return models.ViTBackbone((SIDE, SIDE, 3), 16, 1, 2, 8, 16, use_class_token=False)


def dinov2(models):
    shape = (SIDE, SIDE, 3)
    return models.DINOV2Backbone(
        16, 1, 8, 2, 16, num_register_tokens=4, image_shape=shape, name="dino"
    )


def resnet(models):
    return models.ResNetBackbone(
        [64], [3], [64, 16], [1, 1], [1, 2], "basic_block", image_shape=(None, None, 3)
    )


def clip(models):
    images = models.CLIPVisionEncoder(16, 8, 1, 2, 16, image_shape=(SIDE, SIDE, 3), name="vision")
    texts = models.CLIPTextEncoder(10, 8, 8, 1, 2, 16, max_sequence_length=4, name="text")
    return models.CLIPBackbone(images, texts, 4)


CONVERTERS = {
    vit: "ViTImageConverter",
    vit_without_class_token: "ViTImageConverter",
    dinov2: "DINOV2ImageConverter",
    resnet: "ResNetImageConverter",
    clip: "CLIPImageConverter",
}


@pytest.fixture(scope="module", params=CONVERTERS, ids=lambda make: make.__name__)
def saved(request, tmp_path_factory):
    """A backbone, and the folder of its preset."""
    keras_hub = hub()
    keras.utils.set_random_seed(1)
    backbone = request.param(keras_hub.models)
    folder = str(tmp_path_factory.mktemp("presets") / request.param.__name__)
    backbone.save_to_preset(folder)
    converter = getattr(keras_hub.layers, CONVERTERS[request.param])
    converter(image_size=(SIDE, SIDE), scale=SCALE, offset=OFFSET).save_to_preset(folder)
    return backbone, folder


IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


def test_features_are_those_of_the_backbone_on_converted_images(saved):
    backbone, folder = saved
    converted = tf.constant(IMAGES * SCALE + OFFSET, tf.float32)
    if "clip" in folder:
        output = backbone.get_vision_embeddings(converted)
    else:
        output = backbone(converted, training=False)
    if len(output.shape) == 2:
        expected = output
    elif len(output.shape) == 4:
        expected = tf.reduce_mean(output, (1, 2))
    elif "without" in folder:
        expected = tf.reduce_mean(output, 1)
    else:
        expected = output[:, 0]
    encoder = encoders.build(f"keras_hub:{folder}")
    learner = daso_tf.Supervised(encoder, num_classes=2)
    assert learner.resolution == SIDE
    for network in (learner.encoder, learner.ema_encoder):
        features = network(learner.network.as_input(tf.constant(IMAGES)), training=False)
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_weights_may_be_random_and_the_network_is_saved(saved, tmp_path):
    backbone, folder = saved
    encoder = encoders.build(f"keras_hub:{folder}", weights="none")
    pairs = zip(encoder.weights, backbone.weights, strict=True)
    assert any((np.array(ours) != np.array(theirs)).any() for ours, theirs in pairs)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    image = tf.constant(IMAGES / 255, tf.float32)
    np.testing.assert_allclose(again(image), encoder(image), rtol=1e-5, atol=1e-5)
    assert encoders.normalization_of(again) == ((0.0,) * 3, (1.0,) * 3)


def test_the_command_uses_the_resolution_of_the_preset(saved):
    _, folder = saved
    assert completed("--dataset=digits", f"--encoder=keras_hub:{folder}").resolution == SIDE
    other = completed("--dataset=digits", f"--encoder=keras_hub:{folder}", "--resolution=64")
    assert other.resolution == 64


@pytest.mark.parametrize("preset", ["no_such_preset", "hf:/nowhere"])
def test_a_preset_that_does_not_exist_is_one_line(preset, tmp_path, capsys):
    hub()
    run = arguments(model_dir=tmp_path / "run", data_dir=tmp_path, encoder=f"keras_hub:{preset}")
    assert run_train(*run) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and f"preset {preset} cannot be used" in lines[0]


def test_a_backbone_of_texts_is_refused(tmp_path):
    keras_hub = hub()
    folder = str(tmp_path / "bert")
    keras_hub.models.BertBackbone(10, 1, 1, 4, 8, max_sequence_length=4).save_to_preset(folder)
    with pytest.raises(ValueError, match=r"bert .*Allowed: .*image backbone"):
        encoders.build(f"keras_hub:{folder}", 32)


def test_without_keras_3_the_way_out_is_named_before_data_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("daso_tf.encoders.keras_hub.KERAS_3", False)
    run = {"dataset": "image_folder", "data_dir": tmp_path / "nowhere", "model_dir": tmp_path / "r"}
    assert run_train(*arguments(**run, encoder="keras_hub:dinov2_small")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "needs Keras 3" in lines[0] and "efficientnet_lite0" in lines[0]
    assert not (tmp_path / "r").exists()


def test_a_missing_package_is_named_before_data_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("daso_tf.encoders.keras_hub.KERAS_3", True)
    monkeypatch.setitem(__import__("sys").modules, "keras_hub", None)
    run = {"dataset": "image_folder", "data_dir": tmp_path / "nowhere", "model_dir": tmp_path / "r"}
    assert run_train(*arguments(**run, encoder="keras_hub:dinov2_small")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].endswith('pip install "daso_tf[hub]"')
