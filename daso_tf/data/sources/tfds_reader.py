"""Data sets that tensorflow-datasets keeps on disk, and downloads where it must."""

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from daso_tf.data.errors import DataError
from daso_tf.data.memory import empty_images
from daso_tf.data.pools import ArrayPool


def open_builder(
    name: str, data_dir: str | os.PathLike | None, *, url: str | None = None, otherwise: str = ""
) -> tfds.core.DatasetBuilder:
    """Opens a data set of tensorflow-datasets, which is downloaded only if it is not on disk.

    Args:
        name: its name there.
        data_dir: folder of tensorflow-datasets; None for its default, `~/tensorflow_datasets`.
        url: what would be downloaded, where that is known; tried first, since tensorflow-datasets
            itself needs minutes to see that there is no network.
        otherwise: what else to do where it cannot be downloaded, for the message.

    Returns:
        A builder whose data is on disk.

    Raises:
        DataError: there is no such data set, or it is not on disk and cannot be downloaded; says
            which files to put where.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # an unknown name, configuration or version each raise their own
        raise DataError(f"tensorflow-datasets cannot open {name!r}: {error}") from error
    if builder.is_prepared():
        return builder
    place = os.fspath(builder.data_path)
    if builder.data_path.exists():
        raise DataError(f"{place!r} is incomplete: it has no dataset_info.json. Remove or mend it.")
    try:
        if url:
            _reach(url)
        builder.download_and_prepare()
    except Exception as error:  # downloads fail in many ways; all mean that the data is not there
        raise DataError(
            f"{name} is not in {place!r} and could not be downloaded "
            f"({type(error).__name__}: {error}). On a machine with network run\n"
            '  python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', data_dir='DIR').download_and_prepare()\"\n"
            f"and copy the files of DIR/{builder.info.full_name} to {place!r}{otherwise}."
        ) from error
    return builder


def read_split(builder: tfds.core.DatasetBuilder, split: str) -> ArrayPool:
    """Reads all images of a split, which share one size, into memory.

    Args:
        builder: an opened data set with features `image` and `label`.
        split: name of the split.

    Returns:
        An `ArrayPool`.

    Raises:
        DataError: the images do not fit into memory, or the files on disk are broken.
    """
    count = builder.info.splits[split].num_examples
    shape = builder.info.features["image"].shape
    # Filled batch by batch, so that the 2.8 GB of STL-10 are not held twice.
    images, labels = empty_images(count, shape[:2]), np.empty(count, np.int32)
    start = 0
    with reading(builder):
        for batch in tfds.as_numpy(builder.as_dataset(split=split, batch_size=500)):
            stop = start + len(batch["label"])
            images[start:stop], labels[start:stop] = batch["image"], batch["label"]
            start = stop
    return ArrayPool(images, labels)


@contextlib.contextmanager
def reading(builder: tfds.core.DatasetBuilder) -> Iterator[None]:
    """Turns what goes wrong while a data set is read from disk into a DataError."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise DataError(
            f"The files of {builder.name} in {os.fspath(builder.data_path)!r} cannot be read: "
            f"{error} Remove the folder and get it anew."
        ) from error


def _reach(url: str) -> None:
    # A server that refuses still answers: there is a network, and the download will tell more.
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
