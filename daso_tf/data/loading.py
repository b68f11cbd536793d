"""From the name of a data set to its images."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from absl import logging

from daso_tf.data import decode, memory
from daso_tf.data.class_order import ClassOrder
from daso_tf.data.copies import Copy, find_copies, perceptual_hash
from daso_tf.data.errors import DataError, UnreadableFiles
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.long_tail import LongTail, split
from daso_tf.data.pools import Pool, Size
from daso_tf.data.semi_supervised import SemiSupervisedData
from daso_tf.data.sources import OPTIONS, open_source
from daso_tf.data.sources.source import Source
from daso_tf.data.statistics import channel_statistics

# Views are made at an image's own size and then resized (STL-10: 96 to 32 pixels). Beyond this
# factor, augmentation at the image's own size costs more than it is worth.
_LARGEST_REDUCTION = 4

_TRAINING = ("labeled", "unlabeled")
_STATISTICS_SAMPLE = 2048  # images of each part from which channel statistics are computed


def load(
    dataset: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    labeled_head: int = 0,
    labeled_imbalance: float = 1.0,
    unlabeled_head: int = 0,
    unlabeled_imbalance: float = 1.0,
    reverse_unlabeled: bool = False,
    unlabeled_order: str = "labeled",
    labeled_among_unlabeled: bool = False,
    validation_size: int = 0,
    class_order: ClassOrder | None = None,
    source_size: int = 0,
    resolution: int = 32,
    stream: bool | None = None,
    max_bad_files: int = 10,
    labeled_alone: bool = False,
    max_megapixels: float = decode.MAX_MEGAPIXELS,
    drop_copies: bool = False,
    seed: int = 0,
    **options: str | os.PathLike[str] | None,
) -> SemiSupervisedData:
    """Loads a data set, split into labeled, unlabeled, validation and test images.

    If the data set has unlabeled images of its own (STL-10, or a folder `unlabeled`), all of them
    are used. Otherwise unlabeled images are taken from the training images.

    If all images have the same size, at most four times the resolution, they keep it. Otherwise
    they are resized to `resolution` x `resolution`. Images are kept in memory as uint8. Image
    files can also be read again each time a batch needs them, see `stream`.

    Args:
        dataset: One of `daso_tf.data.DATASETS`. In the last of them, NAME stands for any name in
            tensorflow-datasets.
        data_dir: Folder of the data; None where the data set has a default.
        labeled_head: Labeled images of the head class, by default the largest; 0 uses all images
            as they are.
        labeled_imbalance: Imbalance ratio of the labeled images (head class over tail class), >= 1.
        unlabeled_head: Unlabeled images of the head class; required if they are taken from the
            training images, except with `labeled_alone`.
        unlabeled_imbalance: Imbalance ratio of the unlabeled images, >= 1.
        reverse_unlabeled: Whether the unlabeled images have the opposite order of classes: the
            labeled tail class is their head class.
        unlabeled_order: Which classes have how many unlabeled images, one of
            `daso_tf.data.long_tail.ORDERS`: "labeled", the same order as the labeled images;
            "reversed", as `reverse_unlabeled`; "middle" and "head-tail", the largest classes are
            those in the middle or at both ends of that order.
        labeled_among_unlabeled: Whether the labeled images are among the unlabeled ones, too.
        validation_size: Training images used for validation, the same number of each class.
        class_order: Names of all classes, the head class first, or a file with one name per line.
            By default larger classes come first; the benchmarks have their published order.
        source_size: Height and width in pixels at which images are kept; 0 chooses as described
            above.
        resolution: Height and width in pixels of the network's input.
        stream: Whether image files are read each time they are needed. False reads all of them
            now. None reads them now if they need at most half of this machine's memory. The
            batches are the same.
        max_bad_files: How many unreadable training files may be left out; the log names them.
            Validation and test files must all be readable.
        labeled_alone: Whether there may be no unlabeled images. Learners that use the labeled
            images alone need none.
        max_megapixels: Largest number of pixels of an image file, in millions. A larger one counts
            as unreadable; its header shows its size, so it is not decoded.
        drop_copies: Whether unlabeled images are left out that are copies of test, validation,
            labeled or other unlabeled images, also near copies. It needs the extra `copies`.
        seed: Integer >= 0 that determines the split.
        **options: Options of the data set. `image_list` has `labels`, the path of a CSV or TSV
            file with a path, a label and, optionally, a part per line; see
            `docs/own_pictures.md`. `semi_aves` has `labeled` ("l_train", the default, or
            "l_train_val": its labeled images) and `unlabeled` ("in", the default, or "in+out": its
            unlabeled images). None means the default.

    Returns:
        A `SemiSupervisedData`.

    Raises:
        DataError: If the data is missing, broken or too small for the request, or the data set does
            not have an option.
        TypeError: If an argument is unknown.

    Example:

    >>> data = daso_tf.data.load(
    ...     "digits", labeled_head=40, labeled_imbalance=10, unlabeled_head=90, resolution=8)
    >>> data
    SemiSupervisedData(159 labeled, 900 unlabeled, 360 test images of size (8, 8), 10 classes)
    >>> data.labeled_counts
    array([40, 30, 23, 18, 14, 11,  8,  6,  5,  4])
    """
    _check_names(options)
    if source_size < 0 or resolution < 1 or max_bad_files < 0 or not max_megapixels > 0:
        raise DataError(
            f"source_size={source_size}, resolution={resolution}, max_bad_files={max_bad_files}, "
            f"max_megapixels={max_megapixels}; source_size must be 0 or more and resolution 1 or "
            "more, in pixels, max_bad_files 0 or more, and max_megapixels more than 0."
        )
    sizes = LongTail(
        labeled_head,
        labeled_imbalance,
        unlabeled_head,
        unlabeled_imbalance,
        reverse_unlabeled,
        validation_size,
        class_order,
        unlabeled_order,
    )
    selection = select(
        dataset,
        data_dir,
        sizes,
        seed,
        labeled_alone,
        max_megapixels=max_megapixels,
        **options,
    )
    if drop_copies:
        selection = selection.without(selection.copies())
    data = selection.read(source_size, resolution, stream, max_bad_files)
    return data.with_labeled_among_unlabeled() if labeled_among_unlabeled else data


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which images of a data set make up which part. The images are not read yet.

    Args:
        source: The data set.
        parts: By the part's name in `SemiSupervisedData`, a pool and the positions chosen in it.
            Images of no class are not among them, so that they change nothing of a run.
        known_copies: The copies that `without` was given, those that are left out included; None
            before that.
    """

    source: Source
    parts: dict[str, tuple[Pool, np.ndarray]]
    known_copies: Sequence[Copy] | None = None

    @property
    def sizes(self) -> dict[str, set[Size]]:
        """The sizes (height, width) of the chosen images in the source, by the part's name."""
        return {name: sizes for name, (sizes, _) in self._headers.items()}

    def copies(self, near: bool = True) -> list[Copy]:
        """Reads all chosen images and returns those that are copies; see `find_copies`.

        Args:
            near: Whether near copies are searched, too.

        Raises:
            DataError: If the extra `copies` is not installed, which they need.
        """
        return find_copies(self.parts, perceptual_hash() if near else None)

    def without(self, copies: Sequence[Copy]) -> "Selection":
        """Returns the selection without the unlabeled images among some copies."""
        pool, members = self.parts["unlabeled"]
        dropped = [copy.place for copy in copies if copy.part == "unlabeled"]
        logging.warning(
            "%d of %d unlabeled images are copies and are left out.", len(dropped), len(members)
        )
        kept = np.delete(members, dropped)
        parts = {**self.parts, "unlabeled": (pool, kept)}
        return dataclasses.replace(self, parts=parts, known_copies=copies)

    def read(
        self, source_size: int, resolution: int, stream: bool | None, max_bad_files: int
    ) -> SemiSupervisedData:
        """Reads the images, or prepares to read them; see `load` for the arguments."""
        training = UnreadableFiles(
            max_bad_files, f"max_bad_files allows {max_bad_files} among training images"
        )
        evaluation = UnreadableFiles(0, "all validation and test images must be readable")
        images = {}
        size = common_size(set().union(*self.sizes.values()), source_size, resolution)
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
        if self.source.unknown is not None:
            pool, members = _all_of(self.source.unknown)
            obtain = pool.stream if stream else pool.read
            images["unknown"] = obtain(members, size, evaluation)
        mean, std = self.source.statistics or channel_statistics(
            *(_sample(images[name]) for name in _TRAINING if len(images[name]))
        )
        return SemiSupervisedData(
            labeled=images["labeled"],
            unlabeled=images["unlabeled"],
            validation=images.get("validation"),
            test=images.get("test"),
            unknown=images.get("unknown"),
            class_names=self.source.class_names,
            mean=mean,
            std=std,
        )

    @functools.cached_property
    def _headers(self) -> dict[str, tuple[set[Size], dict[int, DataError]]]:
        """Sizes and errors of the chosen images, by the part's name; see `Pool.sizes`."""
        return {name: pool.sizes(members) for name, (pool, members) in self.parts.items()}


def common_size(sizes: Collection[Size], source_size: int, resolution: int) -> Size:
    """Returns the size (height, width) at which images are kept; see `load`.

    Args:
        sizes: The sizes that occur among them.
        source_size: Height and width that were asked for; 0 for none.
        resolution: Height and width of the network's input.

    Example:

    >>> common_size({(96, 96)}, 0, 32), common_size({(96, 96), (64, 80)}, 0, 32)
    ((96, 96), (32, 32))
    """
    if source_size:
        return source_size, source_size
    if len(sizes) == 1:
        (size,) = sizes
        if max(size) <= _LARGEST_REDUCTION * resolution:
            return size
    return resolution, resolution


def select(
    dataset: str,
    data_dir: str | os.PathLike[str] | None,
    sizes: LongTail,
    seed: int,
    labeled_alone: bool = False,
    *,
    max_megapixels: float = decode.MAX_MEGAPIXELS,
    **options: str | os.PathLike[str] | None,
) -> Selection:
    """Opens a data set and chooses which of its images make up which part.

    Args:
        dataset: See `load`.
        data_dir: See `load`.
        sizes: How many images each class should have.
        seed: Integer >= 0 that determines the split.
        labeled_alone: See `load`.
        max_megapixels: See `load`.
        **options: Options of the data set.

    Returns:
        A `Selection`.

    Raises:
        DataError: See `load`.
    """
    source = open_source(dataset, data_dir, **options).limited_to(max_megapixels)
    if source.validation is not None and sizes.validation_size:
        raise DataError(
            f"validation_size={sizes.validation_size}, but the data has validation images of its "
            "own. Leave validation_size at 0 to use those, or remove them."
        )
    no_unlabeled = source.unlabeled is None and labeled_alone and not sizes.unlabeled_head
    chosen = split(
        source.train.labels,
        source.class_names,
        sizes,
        unlabeled_from_train=source.unlabeled is None and not no_unlabeled,
        seed=seed,
        listed=source.listed,
    )
    parts = {
        "labeled": (source.train, chosen.labeled),
        "unlabeled": (source.train, chosen.unlabeled)
        if source.unlabeled is None
        else _all_of(source.unlabeled),
    }
    if source.test is not None:
        parts["test"] = _all_of(source.test)
    if source.validation is not None:
        parts["validation"] = _all_of(source.validation)
    elif sizes.validation_size:
        parts["validation"] = (source.train, chosen.validation)
    return Selection(source, parts)


def _all_of(pool: Pool) -> tuple[Pool, np.ndarray]:
    return pool, np.arange(len(pool.labels))


def _sample(images: Images | ImageFiles) -> np.ndarray:
    """Returns evenly spaced images: the same ones from memory and from files."""
    spread = np.linspace(0, len(images) - 1, min(_STATISTICS_SAMPLE, len(images)))
    return images.take(spread.astype(int))


def _check_names(options: Mapping[str, object]) -> None:
    """Refuses a misspelled argument, which Python takes for an option of the data set."""
    if unknown := [name for name in options if name not in OPTIONS]:
        own = [name for name in inspect.signature(load).parameters if name != "options"]
        raise TypeError(
            f"load has no argument {unknown[0]!r}; its arguments are {', '.join([*own, *OPTIONS])}."
        )
