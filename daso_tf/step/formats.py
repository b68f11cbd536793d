"""Writes a model as one file for LiteRT or ONNX Runtime, which need no TensorFlow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from daso_tf.platform.extras import import_extra
from daso_tf.platform.files import write_atomically
from daso_tf.platform.keras_versions import write_archive
from daso_tf.step.calibration import Calibrator
from daso_tf.step.export import SIGNATURE, answers, images_of

ONNX_OPSET = 17  # ONNX Runtime 1.12 (2022) and later read it


class ConversionError(RuntimeError, ValueError):
    """A converter does not work with the installed version of TensorFlow."""


def write_litert(
    model: keras.Model,
    path: str | os.PathLike,
    size: tuple[int, int],
    class_names: Sequence[str] | None = None,
    calibrator: Calibrator | None = None,
) -> None:
    """Writes `model` for LiteRT (TensorFlow Lite), without operations of TensorFlow.

    Its signature `serving_default` takes `images`, uint8 `(batch, *size, 3)`, and returns what a
    SavedModel does.

    Args:
        model: Maps uint8 images to probabilities, resizing and normalizing included.
        path: The file, by convention `*.tflite`.
        size: Height and width in pixels of all images.
        class_names: K names.
        calibrator: Corrects the probabilities.

    Raises:
        ConversionError: If the converter of the installed TensorFlow fails.

    Example:

    ```python
    write_litert(model, "digits.tflite", size=(16, 16))
    ```
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(SIGNATURE, answers(model, class_names, calibrator), [images_of(*size)])
    with tempfile.TemporaryDirectory() as folder:
        write_archive(archive, folder)
        try:
            content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except Exception as error:  # the converter has no errors of its own
            raise ConversionError(_failed("TensorFlow's converter to LiteRT", error)) from error
    _write(path, content)


def write_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    size: tuple[int, int],
    class_names: Sequence[str] | None = None,
    calibrator: Calibrator | None = None,
) -> None:
    """Writes `model` for ONNX Runtime; needs the extra `onnx`.

    Its input is `images`, uint8 `(batch, *size, 3)`, and its outputs are those of a SavedModel.

    Args:
        model: Maps uint8 images to probabilities, resizing and normalizing included.
        path: The file, by convention `*.onnx`.
        size: Height and width in pixels of all images.
        class_names: K names.
        calibrator: Corrects the probabilities.

    Raises:
        ConversionError: If the converter does not work with the installed TensorFlow.
        MissingExtraError: If it is not installed.

    Example:

    ```python
    write_onnx(model, "digits.onnx", size=(16, 16))
    ```
    """
    tf2onnx = import_extra("tf2onnx", "onnx", "export to ONNX")
    images = images_of(*size)
    serve = tf.function(answers(model, class_names, calibrator), input_signature=[images])
    try:
        converted, _ = tf2onnx.convert.from_function(
            serve, input_signature=[images], opset=ONNX_OPSET
        )
    except Exception as error:  # it passes on those of all libraries that it uses
        raise ConversionError(_failed("tf2onnx", error)) from error
    _write(path, converted.SerializeToString())


def _failed(converter: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    return (
        f"{converter} failed with TensorFlow {tf.__version__} ({type(error).__name__}: {reason}). "
        "TensorFlow 2.15.1 and 2.21.0 are tested; a SavedModel works with every version."
    )


def _write(path: str | os.PathLike, content: bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))
