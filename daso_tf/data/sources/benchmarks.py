"""CIFAR-10, CIFAR-100 and STL-10: from their archives, or through tensorflow-datasets."""

import hashlib
import os
from pathlib import Path

import numpy as np

from daso_tf.data.pools import ArrayPool
from daso_tf.data.sources.archives import ARCHIVES, Archive, ArchiveData, read_archive
from daso_tf.data.sources.source import Source
from daso_tf.data.statistics import Statistics

CIFAR10_STATISTICS: Statistics = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))

# The channel means and standard deviations in the code of DASO's authors, who use those of
# CIFAR-10 for STL-10 too.
BENCHMARKS: dict[str, Statistics] = {
    "cifar10": CIFAR10_STATISTICS,
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": CIFAR10_STATISTICS,
}


def benchmark(name: str, data_dir: str | os.PathLike[str] | None) -> Source:
    """Reads a published data set, and downloads it if it is not on disk.

    In `data_dir` it looks for the unpacked archive, then for the packed archive, then for the
    files of tensorflow-datasets. The same seed gives the same split from all three.

    Args:
        name: One of `BENCHMARKS`.
        data_dir: Folder of the archive, or of tensorflow-datasets; None for the default of
            tensorflow-datasets, `~/tensorflow_datasets`.

    Returns:
        A `Source`.

    Raises:
        DataError: If the data is not on disk and cannot be downloaded, or cannot be read.
    """
    archive = ARCHIVES[name]
    data = None if data_dir is None else read_archive(archive, Path(data_dir))
    data = data or _prepared(name, archive, data_dir)
    return Source(
        class_names=data.class_names,
        train=_in_content_order(data.train),
        test=data.test,
        unlabeled=data.unlabeled,
        statistics=BENCHMARKS[name],
        listed=True,
    )


def _prepared(name: str, archive: Archive, data_dir: str | os.PathLike[str] | None) -> ArchiveData:
    """Reads the files of tensorflow-datasets."""
    from daso_tf.data.sources.tfds_reader import open_builder, read_split

    place = "a folder that you give as data_dir" if data_dir is None else repr(os.fspath(data_dir))
    builder = open_builder(
        name, data_dir, url=archive.url, otherwise=f", or put {archive.filename} into {place}"
    )
    has_unlabeled = "unlabelled" in builder.info.splits
    return ArchiveData(
        class_names=tuple(builder.info.features["label"].names),
        train=read_split(builder, "train"),
        test=read_split(builder, "test"),
        unlabeled=read_split(builder, "unlabelled") if has_unlabeled else None,
    )


def _in_content_order(pool: ArrayPool) -> ArrayPool:
    """Sorts images by a digest of their pixels and label.

    Archives and tensorflow-datasets have the same images in different orders. Sorting makes the
    split independent of where they come from.
    """
    digests = [
        hashlib.blake2b(image.tobytes() + label.tobytes(), digest_size=8).digest()
        for image, label in zip(pool.images, pool.labels.astype("<i4"), strict=True)
    ]
    order = np.argsort(np.frombuffer(b"".join(digests), "<u8"), kind="stable")
    return ArrayPool(pool.images[order], pool.labels[order])
