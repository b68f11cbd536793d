"""Writes a model as a SavedModel that serves without this package."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence

import keras
import tensorflow as tf

from daso_tf.platform.disk import naming, sync_folder
from daso_tf.platform.keras_versions import write_archive


def write_saved_model(
    model: keras.Model, directory: str | os.PathLike, class_names: Sequence[str] | None = None
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

    Raises:
        FileExistsError: If `directory` contains something else than a SavedModel.
        OSError: If it cannot be written; an earlier SavedModel is then still there.

    Example:

    ```python
    write_saved_model(model, "runs/digits_lt/export", class_names=["cat", "dog"])
    ```
    """
    directory = os.path.abspath(os.fspath(directory))
    _check_replaceable(directory)

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
    parent, name = os.path.split(directory)
    with naming(directory):
        os.makedirs(parent, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix=f".export-{name}-", dir=parent)
        try:
            write_archive(archive, unfinished)
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


def _check_replaceable(directory: str) -> None:
    if os.path.isdir(directory):
        if os.listdir(directory) and not tf.saved_model.contains_saved_model(directory):
            raise FileExistsError(
                f"{directory} contains files that are not a SavedModel; they would be lost. Export "
                "to another directory, or empty this one first."
            )
    elif os.path.lexists(directory):
        raise FileExistsError(f"{directory} is not a folder; export to another directory.")
