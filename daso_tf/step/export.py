"""Writes a model as a SavedModel that serves without this package."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf

from daso_tf.augment import resize
from daso_tf.open_set import OpenSet
from daso_tf.platform.disk import naming, sync_folder
from daso_tf.platform.keras_versions import write_archive
from daso_tf.step.calibration import Calibrator

SIGNATURE = "serving_default"


def write_saved_model(
    model: keras.Model,
    directory: str | os.PathLike,
    resolution: int,
    class_names: Sequence[str] | None = None,
    extra: Mapping[str, bytes] = MappingProxyType({}),
    calibrator: Calibrator | None = None,
) -> None:
    """Writes `model` as a SavedModel with two signatures.

    `serving_default` takes `images`, uint8 `(batch, height, width, 3)` of any size. `serve_jpeg`
    takes `image_bytes`, string `(batch,)`, JPEG or PNG files of any sizes. TensorFlow decodes
    them, and ignores a rotation in their EXIF metadata.

    Both return `probabilities`, float32 `(batch, K)`; `class_ids`, int64 `(batch,)`; where
    `class_names` are given, `class_names`, string `(batch,)`; and, where the model has an open set
    with a limit, `unknown_score`, float32 `(batch,)`, and `unknown`, bool `(batch,)`, whether the
    image belongs to none of the classes.

    Args:
        model: Maps uint8 images to probabilities, resizing and normalizing included.
        directory: The folder to write. A SavedModel that it contains is replaced once the new one
            is complete; other files are never overwritten.
        resolution: Side in pixels to which the model resizes images.
        class_names: K names.
        extra: Further files of the folder, by path; TensorFlow ignores those in `assets.extra`.
        calibrator: Corrects the probabilities; by default they are those of the model.

    Raises:
        FileExistsError: If `directory` contains something else than a SavedModel.
        OSError: If it cannot be written; an earlier SavedModel is then still there.

    Example:

    ```python
    write_saved_model(model, "runs/digits_lt/export", 16, class_names=["cat", "dog"])
    ```
    """
    directory = os.path.abspath(os.fspath(directory))
    _check_replaceable(directory)
    serve = answers(model, class_names, calibrator)

    def serve_jpeg(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def image_of(content: tf.Tensor) -> tf.Tensor:
            # The accurate transform is that of Pillow, with which training images are decoded.
            # In spite of its name, the operation also decodes PNG.
            image = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
            return resize(image[tf.newaxis], (resolution, resolution))[0]

        of_one_size = tf.TensorSpec([resolution, resolution, 3], tf.uint8)
        return serve(tf.map_fn(image_of, image_bytes, fn_output_signature=of_one_size))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(SIGNATURE, serve, [images_of()])
    archive.add_endpoint(
        "serve_jpeg", serve_jpeg, [tf.TensorSpec([None], tf.string, name="image_bytes")]
    )
    parent, name = os.path.split(directory)
    with naming(directory):
        os.makedirs(parent, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix=f".export-{name}-", dir=parent)
        try:
            write_archive(archive, unfinished)
            for path, content in extra.items():
                file = Path(unfinished, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            os.chmod(unfinished, 0o755)  # mkdtemp makes a directory that only its owner can read
            if os.path.isdir(directory):
                shutil.rmtree(directory)
            os.replace(unfinished, directory)
            sync_folder(parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def check_writable(directory: str | os.PathLike) -> None:
    """Finds out whether a SavedModel can be written, long before there is one.

    Args:
        directory: The folder to write; it need not exist.

    Raises:
        FileExistsError: If it contains something else than a SavedModel.
        OSError: If it cannot be written.
    """
    directory = os.path.abspath(os.fspath(directory))
    _check_replaceable(directory)
    parent, name = os.path.split(directory)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    try:
        # Only trying it shows what permissions, read-only file systems and quotas allow.
        tempfile.TemporaryDirectory(prefix=f".export-{name}-", dir=parent).cleanup()
    except OSError as error:
        raise OSError(
            f"The export folder {directory} cannot be written ({error}). Give another one with "
            "--export_dir, or make it writable."
        ) from error


def remove_unfinished(directory: str | os.PathLike) -> None:
    """Removes the folders in which a process that was killed was writing this SavedModel.

    Args:
        directory: The folder of the SavedModel.
    """
    parent, name = os.path.split(os.path.abspath(os.fspath(directory)))
    # The end of the name is that of `tempfile.mkdtemp`. Other runs may write next to this folder.
    own = re.compile(rf"\.export-{re.escape(name)}-[a-z0-9_]{{8}}")
    with contextlib.suppress(OSError):  # no such folder: nothing was left in it
        for entry in os.scandir(parent):
            if own.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)


def answers(
    model: keras.Model, class_names: Sequence[str] | None, calibrator: Calibrator | None = None
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the function that an exported model computes.

    Args:
        model: Maps uint8 images to probabilities.
        class_names: K names.
        calibrator: Corrects the probabilities.

    Returns:
        A function of images that returns the outputs of `write_saved_model` by name.
    """
    open_set: OpenSet | None = getattr(model, "open_set", None)
    if open_set is not None and not open_set.has_limit:
        open_set = None

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if open_set is not None:  # one pass for both answers
            of_network = model.ema_outputs(images)
            probabilities = tf.nn.softmax(model.as_answered(of_network.logits))
        else:
            probabilities = model(images, training=False)
        if calibrator is not None:
            logs = tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))
            bias = tf.constant(calibrator.bias, tf.float32)
            probabilities = tf.nn.softmax(logs / calibrator.temperature + bias)
        class_ids = tf.argmax(probabilities, axis=-1)
        outputs = {"probabilities": probabilities, "class_ids": class_ids}
        if class_names is not None:
            outputs["class_names"] = tf.gather(tf.constant(list(class_names)), class_ids)
        if open_set is not None:
            scores = open_set(of_network.logits, of_network.features)
            outputs |= {"unknown_score": scores, "unknown": open_set.is_unknown(scores)}
        return outputs

    return serve


def images_of(height: int | None = None, width: int | None = None) -> tf.TensorSpec:
    """Returns the input of an exported model: any number of images, of any size or of one."""
    return tf.TensorSpec([None, height, width, 3], tf.uint8, name="images")


def _check_replaceable(directory: str) -> None:
    if os.path.isdir(directory):
        if os.listdir(directory) and not tf.saved_model.contains_saved_model(directory):
            raise FileExistsError(
                f"{directory} contains files that are not a SavedModel; they would be lost. Export "
                "to another directory, or empty this one first."
            )
    elif os.path.lexists(directory):
        raise FileExistsError(f"{directory} is not a folder; export to another directory.")
