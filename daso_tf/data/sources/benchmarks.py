"""CIFAR-10, CIFAR-100 and STL-10: from their archives, or through tensorflow-datasets."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from daso_tf.data.pools import ArrayPool
from daso_tf.data.sources.archives import ARCHIVES, read_archive
from daso_tf.data.sources.source import Source, Statistics
from daso_tf.data.sources.tfds_reader import open_builder, read_split

_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))

# Channel means and deviations that the authors of DASO normalise with; for STL-10 those are
# CIFAR-10's.
BENCHMARKS: dict[str, Statistics] = {
    "cifar10": _CIFAR10_STATISTICS,
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": _CIFAR10_STATISTICS,
}


def benchmark(name: str, data_dir: str | os.PathLike | None) -> Source:
    """Reads a published data set, which is downloaded only if it is not on disk.

    What lies in `data_dir` is taken: the unpacked archive, else the packed one, else what
    tensorflow-datasets keeps there. Equal seeds give equal splits of all three.

    Args:
        name: one of `BENCHMARKS`.
        data_dir: folder that holds the archive, or what tensorflow-datasets keeps; None for the
            default of the latter, `~/tensorflow_datasets`.

    Returns:
        A `Source`.

    Raises:
        DataError: the data is not on disk and cannot be downloaded, or cannot be read.
    """
    source = None if data_dir is None else read_archive(ARCHIVES[name], Path(data_dir))
    source = source or _prepared(name, data_dir)
    return dataclasses.replace(
        source, train=_in_content_order(source.train), statistics=BENCHMARKS[name]
    )


def _prepared(name: str, data_dir: str | os.PathLike | None) -> Source:
    archive = ARCHIVES[name]
    place = "a folder that you give as data_dir" if data_dir is None else repr(os.fspath(data_dir))
    builder = open_builder(
        name, data_dir, url=archive.url, otherwise=f", or put {archive.filename} into {place}"
    )
    brings_unlabeled = "unlabelled" in builder.info.splits
    return Source(
        class_names=tuple(builder.info.features["label"].names),
        train=read_split(builder, "train"),
        test=read_split(builder, "test"),
        unlabeled=read_split(builder, "unlabelled") if brings_unlabeled else None,
    )


def _in_content_order(pool: ArrayPool) -> ArrayPool:
    """Sorts images by a digest of their pixels and label.

    Archives and tensorflow-datasets hold the same images in different orders; this way the split
    does not depend on where they come from.
    """
    digests = [
        hashlib.blake2b(image.tobytes() + label.tobytes(), digest_size=8).digest()
        for image, label in zip(pool.images, pool.labels.astype("<i4"), strict=True)
    ]
    order = np.argsort(np.frombuffer(b"".join(digests), "<u8"), kind="stable")
    return ArrayPool(pool.images[order], pool.labels[order])
