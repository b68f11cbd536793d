"""From the name of a data set to images in memory."""

import dataclasses
import functools

import numpy as np

from daso_tf.data.long_tail import LongTail, split
from daso_tf.data.memory import check_memory
from daso_tf.data.pools import Pool
from daso_tf.data.semi_supervised import DataError, Images, SemiSupervisedData, channel_statistics
from daso_tf.data.sources import open_source
from daso_tf.data.sources.source import Source

# Views are made at an image's own size and then resized (STL-10: 96 to 32). Past this factor,
# augmenting at the own size costs more than it is worth.
_LARGEST_REDUCTION = 4


def load(
    dataset: str,
    *,
    data_dir: str | None = None,
    labeled_head: int = 0,
    labeled_imbalance: float = 1.0,
    unlabeled_head: int = 0,
    unlabeled_imbalance: float = 1.0,
    reverse_unlabeled: bool = False,
    validation_size: int = 0,
    source_size: int = 0,
    resolution: int = 32,
    seed: int = 0,
) -> SemiSupervisedData:
    """Loads a data set, split into labeled, unlabeled, validation and test images.

    Unlabeled images are those that the data set brings (STL-10, or an `unlabeled` folder), used
    as they are; where it brings none, they are carved from the training images.

    Images that are all of one size, at most four times the resolution, keep it; else they are
    brought to `resolution` x `resolution`. All are held in memory as uint8.

    Args:
        dataset: one of `daso_tf.data.DATASETS`; NAME in the last of them stands for any name that
            tensorflow-datasets knows.
        data_dir: folder that holds the data; None where the data set knows its place.
        labeled_head: labeled images of the largest class; 0 takes all there are, as they are.
        labeled_imbalance: labeled images of the largest class over those of the smallest, >= 1.
        unlabeled_head: unlabeled images of the largest class; needed where they are carved.
        unlabeled_imbalance: the same ratio for the unlabeled images, >= 1.
        reverse_unlabeled: whether the unlabeled images have the opposite order of classes.
        validation_size: images set aside from the training images, equally many of each class.
        source_size: pixels a side to hold images at; 0 decides as said above.
        resolution: pixels a side that the network will see.
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
    if source_size < 0 or resolution < 1:
        raise DataError(
            f"source_size={source_size}, resolution={resolution}; source_size must be 0 or more "
            "and resolution 1 or more, in pixels."
        )
    wanted = LongTail(
        labeled_head,
        labeled_imbalance,
        unlabeled_head,
        unlabeled_imbalance,
        reverse_unlabeled,
        validation_size,
    )
    return select(dataset, data_dir, wanted, seed).read(source_size, resolution)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which images of a data set make which part; the images themselves are not read yet.

    Args:
        source: the data set.
        parts: a pool and the members chosen of it, by the part's name in `SemiSupervisedData`.
    """

    source: Source
    parts: dict[str, tuple[Pool, np.ndarray]]

    @functools.cached_property
    def sizes(self) -> set[tuple[int, int]]:
        """The sizes (height, width) of the chosen images, as the source has them."""
        return set().union(*(pool.sizes(members) for pool, members in self.parts.values()))

    def read(self, source_size: int, resolution: int) -> SemiSupervisedData:
        """Reads the images, brought to one size as `load` says."""
        size = self._common_size(source_size, resolution)
        check_memory(sum(len(members) for _, members in self.parts.values()), size)
        images = {
            name: Images(pool.read(members, size), pool.labels[members])
            for name, (pool, members) in self.parts.items()
        }
        mean, std = self.source.statistics or channel_statistics(
            images["labeled"].images, images["unlabeled"].images
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

    def _common_size(self, source_size: int, resolution: int) -> tuple[int, int]:
        if source_size:
            return source_size, source_size
        if len(self.sizes) == 1:
            (size,) = self.sizes
            if max(size) <= _LARGEST_REDUCTION * resolution:
                return size
        return resolution, resolution


def select(dataset: str, data_dir: str | None, wanted: LongTail, seed: int) -> Selection:
    """Finds a data set and chooses which of its images make which part; see `load`."""
    source = open_source(dataset, data_dir)
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
