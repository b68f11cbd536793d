"""Exports: a SavedModel with two signatures, LiteRT and ONNX. The truth is `model.predict`."""

import io
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import daso_tf

NAMES = ("ant", "bee", "cat")
RESOLUTION = 16
SIZE = (20, 28)


@pytest.fixture(scope="module")
def model():
    """A network with random weights and statistics, so that every variable matters."""
    keras.utils.set_random_seed(0)
    encoder = daso_tf.encoders.wide_resnet(10, 1, (RESOLUTION, RESOLUTION, 3))
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    learner = daso_tf.FixMatch(encoder, len(NAMES), class_names=NAMES, **statistics)
    rng = np.random.default_rng(0)
    for weight in learner.ema_network_weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * np.where(weight == 0, 0.1, weight))
    return learner


@pytest.fixture(scope="module")
def images():
    """Smooth pictures: a resize by other code would show in the last digits only."""
    coarse = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    pictures = [
        Image.fromarray(grid).resize(SIZE[::-1], Image.Resampling.BICUBIC) for grid in coarse
    ]
    return np.stack([np.asarray(picture) for picture in pictures])


def check(outputs, expected, atol):
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=atol)
    assert np.ptp(expected, axis=0).max() > 0.05  # the images get different predictions
    classes = expected.argmax(axis=1)
    assert np.asarray(outputs["class_ids"]).tolist() == classes.tolist()
    names = [name if isinstance(name, str) else name.decode() for name in outputs["class_names"]]
    assert names == [NAMES[k] for k in classes]


def litert(path):
    runtime = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = runtime.Interpreter(model_path=str(path))
    return interpreter.get_signature_runner("serving_default")


def onnx(path):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


@pytest.mark.parametrize(
    ("format", "load", "atol"), [("litert", litert, 1e-4), ("onnx", onnx, 1e-5)]
)
@pytest.mark.parametrize("size", [None, SIZE])
def test_file_computes_what_the_model_predicts(model, images, tmp_path, format, load, atol, size):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    path = tmp_path / "new folder" / f"model.{format}"
    model.export(path, format=format, size=size)
    run = load(path)
    if size is None:
        images = images[:, 2 : 2 + RESOLUTION, 4 : 4 + RESOLUTION].copy()
    expected = model.predict(images, verbose=0)
    check(run(images=images), expected, atol)
    one = run(images=images[:1])
    np.testing.assert_allclose(one["probabilities"], expected[:1], atol=atol)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def encoded(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def test_saved_model_takes_files(model, images, tmp_path):
    model.export(tmp_path / "export")
    signatures = tf.saved_model.load(str(tmp_path / "export")).signatures
    files = [
        encoded(images[0], "JPEG", quality=95, subsampling=0),
        encoded(images[1], "PNG"),
        encoded(images[2][:, :17], "JPEG"),
        encoded(images[3][..., 0], "JPEG"),
    ]
    outputs = signatures["serve_jpeg"](image_bytes=tf.constant(files))
    decoded = [daso_tf.data.read_image(daso_tf.data.decode.EncodedImage("", f)) for f in files]
    expected = np.concatenate([model.predict(image[None], verbose=0) for image in decoded])
    # Decoders differ by a level at most.
    check({name: value.numpy() for name, value in outputs.items()}, expected, atol=5e-3)
    assert signatures["serving_default"].structured_outputs.keys() == outputs.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "h5"}, "format must be 'saved_model', 'litert' or 'onnx', but is 'h5'"),
        ({"size": (8, 8)}, "a SavedModel takes images of any size"),
        ({"format": "litert", "size": (0, 8)}, "the height in size must be at least 1"),
        ({"format": "onnx", "size": (8, 2.5)}, "the width in size must be a whole number"),
    ],
)
def test_misuse_is_refused_before_anything_is_written(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path / "export", **arguments)
    assert not list(tmp_path.iterdir())


def test_missing_extra_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ValueError, match=r'pip install "daso_tf\[onnx\]"'):
        model.export(tmp_path / "model.onnx", format="onnx")


def test_converter_that_fails_is_named_and_the_file_of_before_stays(model, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"before")

    def fail(*_):
        raise TypeError("it does not know this operation\nand more lines")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", fail)
    with pytest.raises(
        ValueError, match=r"failed with TensorFlow 2\..*know this operation\)\. Ten"
    ):
        model.export(path, format="litert")
    assert path.read_bytes() == b"before"
