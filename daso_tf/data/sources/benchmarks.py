"""CIFAR-10, CIFAR-100 and STL-10, through tensorflow-datasets."""

import dataclasses
import os

from daso_tf.data.sources.source import Source, Statistics
from daso_tf.data.sources.tfds_reader import open_builder, read_split


@dataclasses.dataclass(frozen=True)
class _Benchmark:
    """What is known of a published data set beforehand.

    Args:
        url: where it is published.
        statistics: channel means and deviations that the authors of DASO normalise with; for
            STL-10 those are CIFAR-10's.
        has_unlabeled: whether it brings images of unknown classes.
    """

    url: str
    statistics: Statistics
    has_unlabeled: bool = False


_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
_CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

BENCHMARKS = {
    "cifar10": _Benchmark("https://www.cs.toronto.edu/~kriz/cifar.html", _CIFAR10_STATISTICS),
    "cifar100": _Benchmark("https://www.cs.toronto.edu/~kriz/cifar.html", _CIFAR100_STATISTICS),
    "stl10": _Benchmark(
        "https://cs.stanford.edu/~acoates/stl10/", _CIFAR10_STATISTICS, has_unlabeled=True
    ),
}


def benchmark(name: str, data_dir: str | os.PathLike | None) -> Source:
    """Reads a published data set, which is downloaded only if it is not on disk.

    Args:
        name: one of `BENCHMARKS`.
        data_dir: folder of tensorflow-datasets; None for its default, `~/tensorflow_datasets`.

    Returns:
        A `Source`.

    Raises:
        DataError: the data is not on disk and cannot be downloaded, or cannot be read.
    """
    known = BENCHMARKS[name]
    builder = open_builder(name, data_dir, url=known.url, otherwise="")
    return Source(
        class_names=tuple(builder.info.features["label"].names),
        train=read_split(builder, "train"),
        test=read_split(builder, "test"),
        unlabeled=read_split(builder, "unlabelled") if known.has_unlabeled else None,
        statistics=known.statistics,
    )
