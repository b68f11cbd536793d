"""The data of a training run: labeled, unlabeled, validation and test images, checked together."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN, ImageFiles, Images, joined
from daso_tf.data.rows import Rows
from daso_tf.data.statistics import channel_statistics


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SemiSupervisedData:
    """The parts of a data set for semi-supervised learning.

    `daso_tf.data.load` and `daso_tf.data.from_arrays` make it. All parts have the same image size.
    Every class has at least one labeled image.

    Args:
        labeled: Training images whose class is known.
        unlabeled: Training images that are used without their class; only the learner `supervised`
            trains where there are none. Their labels only serve to
            measure the quality of pseudo-labels; -1 (`daso_tf.data.UNKNOWN`) where unknown.
        validation: Images for choosing settings, or None.
        test: Images for the final result, or None.
        class_names: K names, in the order of the labels.
        mean: Channel means of the training images, in 0..1.
        std: Channel standard deviations of the training images, in 0..1.
        labeled_among_unlabeled: How many of the unlabeled images are labeled ones; they are the
            last ones.
        unknown: Images of none of the classes, or None. They only measure how well such images are
            told from test images. All their labels are -1.

    Raises:
        DataError: If a part breaks one of these rules, or has a label outside 0..K-1.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    >>> data
    SemiSupervisedData(2 labeled, 4 unlabeled images of size (8, 8), 2 classes)
    >>> data.num_classes, data.class_names, data.unlabeled_counts
    (2, ('0', '1'), None)
    """

    labeled: Images | ImageFiles
    unlabeled: Images | ImageFiles
    validation: Images | ImageFiles | None
    test: Images | ImageFiles | None
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labeled_among_unlabeled: int = 0
    unknown: Images | ImageFiles | None = None

    def __post_init__(self) -> None:
        _check_parts(self)

    def __repr__(self) -> str:
        counts = [f"{len(part)} {name}" for name, part in _parts(self).items() if part is not None]
        return (
            f"SemiSupervisedData({', '.join(counts)} images of size {self.labeled.size}, "
            f"{self.num_classes} classes)"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def labeled_counts(self) -> np.ndarray:
        """Labeled images of each class, int64 of shape (K,)."""
        return np.bincount(self.labeled.labels, minlength=self.num_classes)

    def with_labeled_among_unlabeled(self) -> "SemiSupervisedData":
        """Returns the data with the labeled images among the unlabeled ones, as the last ones.

        Channel statistics do not change.
        """
        return dataclasses.replace(
            self,
            unlabeled=joined(self.unlabeled, self.labeled),
            labeled_among_unlabeled=len(self.labeled),
        )

    @property
    def unlabeled_counts(self) -> np.ndarray | None:
        """Unlabeled images of each class, int64 of shape (K,); None where some are unknown."""
        if (self.unlabeled.labels == UNKNOWN).any():
            return None
        return np.bincount(self.unlabeled.labels, minlength=self.num_classes)


def from_arrays(
    labeled_images: np.ndarray,
    labels: npt.ArrayLike,
    unlabeled_images: np.ndarray,
    *,
    validation: tuple[np.ndarray, npt.ArrayLike] | None = None,
    test: tuple[np.ndarray, npt.ArrayLike] | None = None,
    class_names: Sequence[str] | None = None,
    unlabeled_labels: npt.ArrayLike | None = None,
) -> SemiSupervisedData:
    """Makes training data from arrays in memory.

    Args:
        labeled_images: uint8 array of shape (N, height, width, 3), RGB in 0..255.
        labels: Integer array of shape (N,), classes 0..K-1; every class occurs at least once.
        unlabeled_images: uint8 array of shape (M, height, width, 3); M may be 0 for learners that
            use the labeled images alone.
        validation: A pair of images and labels, or None.
        test: A pair of images and labels, or None.
        class_names: K names; by default "0", "1", ... up to the largest label.
        unlabeled_labels: Integer array of shape (M,) with the true classes, -1 where unknown.
            They only serve to measure the quality of pseudo-labels. By default all are unknown.

    Returns:
        A `SemiSupervisedData`. Its `mean` and `std` are the channel statistics of the labeled and
        unlabeled images.

    Raises:
        DataError: If a shape, type or label is not as described.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(
    ...     images[:2], [0, 1], images[2:], class_names=["cat", "dog"])
    >>> data.labeled_counts
    array([1, 1])
    """
    if unlabeled_images is None:
        raise DataError(
            "unlabeled_images is None; semi-supervised learning needs images without labels. Give "
            "pictures of the same kind that nobody has labeled, or split off a part of yours. To "
            "learn from the labeled images alone, with daso_tf.Supervised, give none: "
            "labeled_images[:0]."
        )
    labeled = Images(labeled_images, np.asarray(labels))
    if unlabeled_labels is None:
        unlabeled_labels = np.full(len(unlabeled_images), UNKNOWN, np.int32)
    unlabeled = Images(unlabeled_images, np.asarray(unlabeled_labels))
    if class_names is None:
        class_names = [str(k) for k in range(labeled.labels.max(initial=0) + 1)]
    mean, std = channel_statistics(labeled.images, unlabeled.images)
    return SemiSupervisedData(
        labeled,
        unlabeled,
        _images(validation),
        _images(test),
        tuple(class_names),
        mean,
        std,
    )


def _images(pair: tuple[np.ndarray, npt.ArrayLike] | None) -> Images | None:
    if pair is None:
        return None
    images, labels = pair
    return Images(images, np.asarray(labels))


def with_pseudo_labeled(
    data: SemiSupervisedData, positions: np.ndarray, labels: np.ndarray
) -> SemiSupervisedData:
    """Adds unlabeled images with pseudo-labels to the labeled images.

    The added images also stay among the unlabeled images. `mean` and `std` do not change.

    Args:
        data: Any data.
        positions: Integer array of shape (S,), positions of unlabeled images.
        labels: Integer array of shape (S,), their pseudo-labels.

    Returns:
        The data with S more labeled images.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    >>> daso_tf.data.with_pseudo_labeled(data, np.array([3]), np.array([1])).labeled_counts
    array([1, 2])
    """
    labeled, unlabeled = data.labeled, data.unlabeled
    labels = np.concatenate([labeled.labels, labels])
    extended: Any
    if isinstance(unlabeled, Rows) and isinstance(labeled, Rows):
        extended = labeled.with_images_of(unlabeled, positions, labels)
    elif isinstance(unlabeled, ImageFiles) and isinstance(labeled, ImageFiles):
        files = [*labeled.files, *(unlabeled.files[position] for position in positions)]
        extended = ImageFiles(
            files, labels, labeled.size, labeled.unreadable, labeled.max_megapixels
        )
    else:
        own = labeled.take(np.arange(len(labeled)))
        extended = Images(np.concatenate([own, unlabeled.take(positions)]), labels)
    return dataclasses.replace(data, labeled=extended)


@contextlib.contextmanager
def reading(data: SemiSupervisedData) -> Iterator[None]:
    """Raises a `DataError` where TensorFlow stops because files cannot be read.

    TensorFlow reports such files with an error of its own, in which their names are hard to find.
    All other errors pass unchanged.

    Args:
        data: The data that is read inside the context.

    Raises:
        DataError: If more files are unreadable than may be left out.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    >>> with daso_tf.data.reading(data):
    ...     sum(len(images) for images, _ in daso_tf.data.evaluation_batches(data.labeled, 8))
    2
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        for part in _parts(data).values():
            if isinstance(part, ImageFiles) and part.unreadable.failure:
                raise part.unreadable.failure from error
        raise


def check_unlabeled(count: int) -> None:
    """Refuses data without unlabeled images, for learners that learn from them."""
    if not count:
        raise DataError(
            "There are no unlabeled images; semi-supervised learning needs some. Give an "
            "unlabeled folder or array, or split them off the training images with labeled_head "
            "and unlabeled_head. The learner `supervised` needs none."
        )


def _parts(data: SemiSupervisedData) -> dict[str, Images | ImageFiles | None]:
    names = ("labeled", "unlabeled", "validation", "test", "unknown")
    return {name: getattr(data, name) for name in names}


def _check_parts(data: SemiSupervisedData) -> None:
    if data.num_classes < 2:
        raise DataError(f"Found {data.num_classes} class; a classifier needs at least 2.")
    for name, part in _parts(data).items():
        if part is None:
            continue
        lowest = UNKNOWN if name in ("unlabeled", "unknown") else 0
        most = UNKNOWN if name == "unknown" else data.num_classes - 1
        wrong = np.flatnonzero((part.labels < lowest) | (part.labels > most))
        if len(wrong):
            raise DataError(
                f"Label {part.labels[wrong[0]]} of {name} image {wrong[0]} ({len(wrong)} such) is "
                f"outside {lowest}..{most}; there are {data.num_classes} classes."
            )
        if part.size != data.labeled.size:
            raise DataError(
                f"{name} images have size {part.size}, labeled images {data.labeled.size} "
                "(height, width); resize all to one size."
            )
    absent = [data.class_names[k] for k in np.flatnonzero(data.labeled_counts == 0)]
    if absent:
        raise DataError(
            f"{len(absent)} of {data.num_classes} classes have no labeled image: "
            f"{', '.join(map(repr, absent[:10]))}. Every class needs at least one."
        )
