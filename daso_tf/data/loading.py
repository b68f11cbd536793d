"""From the name of a data set to images in memory."""

import dataclasses
import functools

import numpy as np

from daso_tf.data import memory
from daso_tf.data.channel_statistics import channel_statistics
from daso_tf.data.errors import DataError, UnreadableFiles
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.long_tail import LongTail, split
from daso_tf.data.pools import Pool
from daso_tf.data.semi_supervised import SemiSupervisedData
from daso_tf.data.sources import open_source
from daso_tf.data.sources.source import Source

# Views are made at an image's own size and then resized (STL-10: 96 to 32). Past this factor,
# augmenting at the own size costs more than it is worth.
_LARGEST_REDUCTION = 4

_TRAINING = ("labeled", "unlabeled")
_STATISTICS_SAMPLE = 2048  # images of a part that channel statistics are computed of


def load(
    dataset: str,
    *,
    data_dir: str | None = None,
    labeled: str | None = None,
    unlabeled: str | None = None,
    labeled_head: int = 0,
    labeled_imbalance: float = 1.0,
    unlabeled_head: int = 0,
    unlabeled_imbalance: float = 1.0,
    reverse_unlabeled: bool = False,
    validation_size: int = 0,
    source_size: int = 0,
    resolution: int = 32,
    stream: bool | None = None,
    max_bad_files: int = 10,
    seed: int = 0,
) -> SemiSupervisedData:
    """Loads a data set, split into labeled, unlabeled, validation and test images.

    Unlabeled images are those that the data set brings (STL-10, or an `unlabeled` folder), used
    as they are; where it brings none, they are carved from the training images.

    Images that are all of one size, at most four times the resolution, keep it; else they are
    brought to `resolution` x `resolution`. They are held in memory as uint8, or, where they are
    files, read and decoded again whenever a batch needs them.

    Args:
        dataset: one of `daso_tf.data.DATASETS`; NAME in the last of them stands for any name that
            tensorflow-datasets knows.
        data_dir: folder that holds the data; None where the data set knows its place.
        labeled: labeled images of `semi_aves`: "l_train", the default, or "l_train_val".
        unlabeled: unlabeled images of `semi_aves`: "in", the default, or "in+out".
        labeled_head: labeled images of the largest class; 0 takes all there are, as they are.
        labeled_imbalance: labeled images of the largest class over those of the smallest, >= 1.
        unlabeled_head: unlabeled images of the largest class; needed where they are carved.
        unlabeled_imbalance: the same ratio for the unlabeled images, >= 1.
        reverse_unlabeled: whether the unlabeled images have the opposite order of classes.
        validation_size: images set aside from the training images, equally many of each class.
        source_size: pixels a side to hold images at; 0 decides as said above.
        resolution: pixels a side that the network will see.
        stream: whether images in files are read when they are needed; False reads all now, None
            does so where they take at most half of this machine's memory. The batches are the same.
        max_bad_files: training images in files that may turn out to be unreadable: these are left
            out and named in the log. Validation and test images all have to be readable.
        seed: integer >= 0 that fixes which images go where.

    Returns:
        A `SemiSupervisedData`.

    Raises:
        DataError: the data is not there, broken, or not enough for what is asked.

    Example:

    >>> data = daso_tf.data.load(
    ...     "digits", labeled_head=40, labeled_imbalance=10, unlabeled_head=90, resolution=8)
    >>> data.labeled_counts
    array([40, 30, 23, 18, 14, 11,  8,  6,  5,  4])
    """
    if source_size < 0 or resolution < 1 or max_bad_files < 0:
        raise DataError(
            f"source_size={source_size}, resolution={resolution}, max_bad_files={max_bad_files}; "
            "source_size must be 0 or more and resolution 1 or more, in pixels, and max_bad_files "
            "0 or more."
        )
    wanted = LongTail(
        labeled_head,
        labeled_imbalance,
        unlabeled_head,
        unlabeled_imbalance,
        reverse_unlabeled,
        validation_size,
    )
    selection = select(dataset, data_dir, wanted, seed, labeled=labeled, unlabeled=unlabeled)
    return selection.read(source_size, resolution, stream, max_bad_files)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which images of a data set make which part; the images themselves are not read yet.

    Args:
        source: the data set.
        parts: a pool and the members chosen of it, by the part's name in `SemiSupervisedData`.
    """

    source: Source
    parts: dict[str, tuple[Pool, np.ndarray]]

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """The sizes (height, width) of the chosen images, as the source has them."""
        return set().union(*(sizes for sizes, _ in self._headers.values()))

    def read(
        self, source_size: int, resolution: int, stream: bool | None, max_bad_files: int
    ) -> SemiSupervisedData:
        """Reads the images, or makes ready to read them; arguments as `load` says."""
        training = UnreadableFiles(
            max_bad_files, f"max_bad_files allows {max_bad_files} among training images"
        )
        evaluation = UnreadableFiles(0, "validation and test images all have to be readable")
        images, size = {}, self._common_size(source_size, resolution)
        count = sum(len(members) for _, members in self.parts.values())
        if stream is None:
            stream = memory.bytes_of(count, size) > memory.machine_memory() / 2
        if not stream:
            memory.check_memory(count, size)
        for name, (pool, members) in self.parts.items():
            _, errors = self._headers[name]
            unreadable = training if name in _TRAINING else evaluation
            unreadable.add(*errors.values())
            members = members[~np.isin(members, list(errors))]
            obtain = pool.stream if stream else pool.read
            images[name] = obtain(members, size, unreadable)
        mean, std = self.source.statistics or channel_statistics(
            *(_sample(images[name]) for name in _TRAINING)
        )
        return SemiSupervisedData(
            labeled=images["labeled"],
            unlabeled=images["unlabeled"],
            validation=images.get("validation"),
            test=images["test"],
            class_names=self.source.class_names,
            mean=mean,
            std=std,
        )

    @functools.cached_property
    def _headers(self):
        """What the headers of the chosen images say, by the part's name; see `Pool.sizes`."""
        return {name: pool.sizes(members) for name, (pool, members) in self.parts.items()}

    def _common_size(self, source_size: int, resolution: int) -> tuple[int, int]:
        if source_size:
            return source_size, source_size
        if len(self.sizes) == 1:
            (size,) = self.sizes
            if max(size) <= _LARGEST_REDUCTION * resolution:
                return size
        return resolution, resolution


def select(
    dataset: str,
    data_dir: str | None,
    wanted: LongTail,
    seed: int,
    *,
    labeled: str | None = None,
    unlabeled: str | None = None,
) -> Selection:
    """Finds a data set and chooses which of its images make which part; see `load`."""
    source = open_source(dataset, data_dir, labeled=labeled, unlabeled=unlabeled)
    if source.validation is not None and wanted.validation_size:
        raise DataError(
            f"validation_size={wanted.validation_size}, but the data brings validation images of "
            "its own; leave validation_size at 0 to use those, or remove them."
        )
    carve = source.unlabeled is None
    chosen = split(
        source.train.labels, source.class_names, wanted, carve_unlabeled=carve, seed=seed
    )
    parts = {
        "labeled": (source.train, chosen.labeled),
        "unlabeled": (source.train, chosen.unlabeled) if carve else _all_of(source.unlabeled),
        "test": _all_of(source.test),
    }
    if source.validation is not None:
        parts["validation"] = _all_of(source.validation)
    elif wanted.validation_size:
        parts["validation"] = (source.train, chosen.validation)
    return Selection(source, parts)


def _all_of(pool: Pool) -> tuple[Pool, np.ndarray]:
    return pool, np.arange(len(pool.labels))


def _sample(images: Images | ImageFiles) -> np.ndarray:
    """Returns images evenly spread, the same ones whether they are in memory or in files."""
    spread = np.linspace(0, len(images) - 1, min(_STATISTICS_SAMPLE, len(images)))
    return images.take(spread.astype(int))
