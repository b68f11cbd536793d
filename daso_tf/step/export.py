"""Writes a model as a SavedModel that serves without this package."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import keras
import tensorflow as tf

from daso_tf.platform.keras_versions import write_archive


def write_saved_model(
    model: keras.Model,
    directory: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    extra: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Writes `model` as a SavedModel with one signature, `serving_default`.

    The signature takes `images`, uint8 `(batch, height, width, 3)` of any size. It returns
    `probabilities`, float32 `(batch, K)`; `class_ids`, int64 `(batch,)`; and, where `class_names`
    are given, `class_names`, string `(batch,)`.

    Args:
        model: Maps uint8 images to probabilities, resizing and normalising included.
        directory: The folder to write. A SavedModel that it contains is replaced once the new one
            is complete; other files are never overwritten.
        class_names: K names.
        extra: Further files of the folder, by path; TensorFlow ignores those in `assets.extra`.

    Raises:
        FileExistsError: If `directory` contains something else than a SavedModel.

    Example:

    ```python
    write_saved_model(model, "runs/digits_lt/export", class_names=["cat", "dog"])
    ```
    """
    directory = os.path.abspath(os.fspath(directory))
    if (
        os.path.isdir(directory)
        and os.listdir(directory)
        and not tf.saved_model.contains_saved_model(directory)
    ):
        raise FileExistsError(
            f"{directory} contains files that are not a SavedModel; they would be lost. Export to "
            "another directory, or empty this one first."
        )

    def serve(images):
        probabilities = model(images, training=False)
        class_ids = tf.argmax(probabilities, axis=-1)
        outputs = {"probabilities": probabilities, "class_ids": class_ids}
        if class_names is not None:
            outputs["class_names"] = tf.gather(tf.constant(list(class_names)), class_ids)
        return outputs

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name="serving_default",
        fn=serve,
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")],
    )
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    unfinished = tempfile.mkdtemp(prefix=".export-", dir=os.path.dirname(directory))
    try:
        write_archive(archive, unfinished)
        for name, content in extra.items():
            path = Path(unfinished, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        os.chmod(unfinished, 0o755)  # mkdtemp makes a directory that only its owner can read
        if os.path.isdir(directory):
            shutil.rmtree(directory)
        os.replace(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
