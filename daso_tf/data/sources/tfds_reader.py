"""Data sets of tensorflow-datasets, from disk or downloaded."""

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
    name: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    url: str | None = None,
    otherwise: str = "",
) -> tfds.core.DatasetBuilder:
    """Opens a data set of tensorflow-datasets, and downloads it if it is not on disk.

    Args:
        name: Its name in tensorflow-datasets.
        data_dir: Folder of tensorflow-datasets; None for its default, `~/tensorflow_datasets`.
        url: The address of the download; None for the first one that tensorflow-datasets lists.
            It is tried first, because tensorflow-datasets takes minutes to notice that there is no
            network.
        otherwise: For the error message, what else to do if the download fails.

    Returns:
        A builder whose data is on disk.

    Raises:
        DataError: If the data set does not exist, or is not on disk and cannot be downloaded. The
            message says which files to put where.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # names, configurations and versions have different errors
        raise DataError(f"tensorflow-datasets cannot open {name!r}: {error}") from error
    if builder.is_prepared():
        return builder
    place = os.fspath(builder.data_path)
    if builder.data_path.exists():
        raise DataError(
            f"{place!r} is incomplete: it has no dataset_info.json. Remove the folder to download "
            "the data again, or copy the missing files."
        )
    try:
        if address := url or _listed_address(builder):
            _reach(address)
        builder.download_and_prepare()
    except Exception as error:  # downloads fail in many ways
        raise DataError(
            f"{name} is not in {place!r} and could not be downloaded "
            f"({type(error).__name__}: {error}). On a machine with a network run\n"
            '  python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', data_dir='DIR').download_and_prepare()\"\n"
            f"and copy the files of DIR/{builder.info.full_name} to {place!r}{otherwise}."
        ) from error
    return builder


def read_split(builder: tfds.core.DatasetBuilder, split: str) -> ArrayPool:
    """Reads all images of a split into memory. They must all have the same size.

    Args:
        builder: An opened data set with the features `image` and `label`.
        split: Name of the split.

    Returns:
        An `ArrayPool`.

    Raises:
        DataError: If the images do not fit into memory, or the files on disk are broken.
    """
    count = builder.info.splits[split].num_examples
    shape = builder.info.features["image"].shape
    # Filled batch by batch: the 2.8 GB of STL-10 must not be in memory twice.
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
    """Raises a `DataError` if reading a data set from disk fails inside the context."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise DataError(
            f"The files of {builder.name} in {os.fspath(builder.data_path)!r} cannot be read: "
            f"{error} Remove the folder and download the data again."
        ) from error


def _listed_address(builder: tfds.core.DatasetBuilder) -> str | None:
    """Returns an address of the download, where tensorflow-datasets lists one."""
    return next((url for url in builder.url_infos or () if url.startswith("http")), None)


def _reach(url: str) -> None:
    # A server that refuses the request still answers: there is a network, and the error of the
    # download itself says more.
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
