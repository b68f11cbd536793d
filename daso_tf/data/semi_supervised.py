"""What training needs: labeled, unlabeled, validation and test images, checked once."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from daso_tf.data.channel_statistics import channel_statistics
from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN, ImageFiles, Images


@dataclasses.dataclass(frozen=True, eq=False)
class SemiSupervisedData:
    """The parts of a data set for imbalanced semi-supervised learning.

    All parts share one image size. Every class has at least one labeled image, and there is at
    least one unlabeled image.

    Args:
        labeled: training images with their classes.
        unlabeled: training images without; labels serve statistics only, -1 where unknown.
        validation: images to choose settings with, or None.
        test: images to report on, or None.
        class_names: one name a class, in the order of the labels.
        mean: channel means of the training images, in 0..1.
        std: channel standard deviations of the training images, in 0..1.

    Raises:
        DataError: a part breaks what is said above, or holds a label outside 0..K-1.
    """

    labeled: Images | ImageFiles
    unlabeled: Images | ImageFiles
    validation: Images | ImageFiles | None
    test: Images | ImageFiles | None
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self):
        _check_parts(self)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def labeled_counts(self) -> np.ndarray:
        """Labeled images of each class, int64 of shape (K,)."""
        return np.bincount(self.labeled.labels, minlength=self.num_classes)

    @property
    def unlabeled_counts(self) -> np.ndarray | None:
        """Unlabeled images of each class, int64 of shape (K,); None where that is not known."""
        if (self.unlabeled.labels == UNKNOWN).any():
            return None
        return np.bincount(self.unlabeled.labels, minlength=self.num_classes)


def from_arrays(
    labeled_images: np.ndarray,
    labels: np.ndarray,
    unlabeled_images: np.ndarray,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    class_names: Sequence[str] | None = None,
    unlabeled_labels: np.ndarray | None = None,
) -> SemiSupervisedData:
    """Makes training data of arrays that are already in memory.

    Args:
        labeled_images: uint8 array of shape (N, height, width, 3), RGB in 0..255.
        labels: integer array of shape (N,), classes 0..K-1, every class at least once.
        unlabeled_images: uint8 array of shape (M, height, width, 3).
        validation: pair of images and labels, or None.
        test: pair of images and labels, or None.
        class_names: K names; by default "0", "1", ... up to the largest label.
        unlabeled_labels: integer array of shape (M,) with the true classes, -1 where unknown;
            used only to report how good pseudo-labels are. By default all unknown.

    Returns:
        A `SemiSupervisedData`; mean and std are those of the labeled and unlabeled images.

    Raises:
        DataError: a shape, type or label is not as described.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(
    ...     images[:2], [0, 1], images[2:], class_names=["cat", "dog"])
    >>> data.labeled_counts
    array([1, 1])
    """
    labeled = Images(labeled_images, labels)
    if unlabeled_labels is None:
        unlabeled_labels = np.full(len(unlabeled_images), UNKNOWN, np.int32)
    unlabeled = Images(unlabeled_images, unlabeled_labels)
    if class_names is None:
        class_names = [str(k) for k in range(labeled.labels.max(initial=0) + 1)]
    mean, std = channel_statistics(labeled.images, unlabeled.images)
    return SemiSupervisedData(
        labeled,
        unlabeled,
        None if validation is None else Images(*validation),
        None if test is None else Images(*test),
        tuple(class_names),
        mean,
        std,
    )


def with_pseudo_labeled(
    data: SemiSupervisedData, positions: np.ndarray, labels: np.ndarray
) -> SemiSupervisedData:
    """Adds unlabeled images to the labeled ones; they stay among the unlabeled ones, too.

    Args:
        data: any data.
        positions: integer array of shape (S,), positions of unlabeled images.
        labels: integer array of shape (S,), the classes that they are taken for.

    Returns:
        The data with S more labeled images.
    """
    labeled, unlabeled = data.labeled, data.unlabeled
    labels = np.concatenate([labeled.labels, labels])
    if isinstance(unlabeled, ImageFiles) and isinstance(labeled, ImageFiles):
        files = [*labeled.files, *(unlabeled.files[position] for position in positions)]
        extended = ImageFiles(files, labels, labeled.size, labeled.unreadable)
    else:
        own = labeled.take(np.arange(len(labeled)))
        extended = Images(np.concatenate([own, unlabeled.take(positions)]), labels)
    return dataclasses.replace(data, labeled=extended)


@contextlib.contextmanager
def reading(data: SemiSupervisedData) -> Iterator[None]:
    """Makes the error of a file that cannot be read, deep inside TensorFlow, the `DataError` it is.

    Args:
        data: what is read in this context.

    Raises:
        DataError: more files turn out to be unreadable than may be left out.
    """
    try:
        yield
    except tf.errors.OpError as error:
        for part in _parts(data).values():
            if isinstance(part, ImageFiles) and part.unreadable.failure:
                raise part.unreadable.failure from error
        raise


def _parts(data: SemiSupervisedData) -> dict[str, Images | ImageFiles | None]:
    return {name: getattr(data, name) for name in ("labeled", "unlabeled", "validation", "test")}


def _check_parts(data: SemiSupervisedData) -> None:
    if data.num_classes < 2:
        raise DataError(f"Found {data.num_classes} class; a classifier needs at least 2.")
    if not len(data.unlabeled):
        raise DataError(
            "There are no unlabeled images; semi-supervised learning needs some. Give an "
            "unlabeled folder or array, or carve them from the training images with unlabeled_head."
        )
    for name, part in _parts(data).items():
        if part is None:
            continue
        lowest = UNKNOWN if name == "unlabeled" else 0
        wrong = np.flatnonzero((part.labels < lowest) | (part.labels >= data.num_classes))
        if len(wrong):
            raise DataError(
                f"Label {part.labels[wrong[0]]} of {name} image {wrong[0]} ({len(wrong)} such) is "
                f"outside {lowest}..{data.num_classes - 1}; there are {data.num_classes} classes."
            )
        if part.size != data.labeled.size:
            raise DataError(
                f"{name} images are {part.size} pixels, labeled ones {data.labeled.size} "
                "(height, width); bring all to one size."
            )
    absent = [data.class_names[k] for k in np.flatnonzero(data.labeled_counts == 0)]
    if absent:
        raise DataError(
            f"{len(absent)} of {data.num_classes} classes have no labeled image: "
            f"{', '.join(map(repr, absent[:10]))}. Every class needs at least one."
        )
