"""CIFAR-10, CIFAR-100 and STL-10, through tensorflow-datasets."""

import dataclasses
import os

import numpy as np
import tensorflow_datasets as tfds

from daso_tf.data.pools import ArrayPool, check_memory
from daso_tf.data.semi_supervised import DataError
from daso_tf.data.sources.source import Source, Statistics


@dataclasses.dataclass(frozen=True)
class _Benchmark:
    """What is known of a published data set beforehand.

    The channel statistics are those that the authors of DASO normalise with; for STL-10 those are
    CIFAR-10's.
    """

    statistics: Statistics
    has_unlabeled: bool = False


_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
_CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

BENCHMARKS = {
    "cifar10": _Benchmark(_CIFAR10_STATISTICS),
    "cifar100": _Benchmark(_CIFAR100_STATISTICS),
    "stl10": _Benchmark(_CIFAR10_STATISTICS, has_unlabeled=True),
}


def benchmark(name: str, data_dir: str | os.PathLike | None) -> Source:
    """Reads a published data set, which is downloaded only if it is not on disk.

    Args:
        name: one of `BENCHMARKS`.
        data_dir: folder of tensorflow-datasets; None for its default, `~/tensorflow_datasets`.

    Returns:
        A `Source`.

    Raises:
        DataError: the data is not on disk and cannot be downloaded.
    """
    builder = tfds.builder(name, data_dir=data_dir)
    _make_ready(builder)
    known = BENCHMARKS[name]
    return Source(
        class_names=tuple(builder.info.features["label"].names),
        train=_read(builder, "train"),
        test=_read(builder, "test"),
        unlabeled=_read(builder, "unlabelled") if known.has_unlabeled else None,
        statistics=known.statistics,
    )


def _make_ready(builder: tfds.core.DatasetBuilder) -> None:
    if builder.data_path.exists():
        return
    try:
        builder.download_and_prepare()
    except Exception as error:  # downloads fail in many ways; all mean that the data is not there
        place = os.fspath(builder.data_path)
        raise DataError(
            f"{builder.name} is not in {place!r} and could not be downloaded "
            f"({type(error).__name__}: {error}). On a machine with network run\n"
            f"  python -c \"import tensorflow_datasets as tfds; tfds.builder('{builder.name}', "
            "data_dir='DIR').download_and_prepare()\"\n"
            f"and copy the files of DIR/{builder.name}/{builder.version} to {place!r}."
        ) from error


def _read(builder: tfds.core.DatasetBuilder, split: str) -> ArrayPool:
    count = builder.info.splits[split].num_examples
    shape = builder.info.features["image"].shape
    check_memory(count, shape[:2])
    # Filled batch by batch, so that the 2.8 GB of STL-10 are not held twice.
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)
    start = 0
    for batch in tfds.as_numpy(builder.as_dataset(split=split, batch_size=500)):
        stop = start + len(batch["label"])
        images[start:stop], labels[start:stop] = batch["image"], batch["label"]
        start = stop
    return ArrayPool(images, labels)
