"""What training needs: labeled, unlabeled, validation and test images, checked once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

UNKNOWN = -1  # the label of an image whose class nobody knows


class DataError(ValueError):
    """The data cannot be used as asked; the message says what was found and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images of one size with their labels.

    Args:
        images: uint8 array of shape (N, height, width, 3), RGB in 0..255.
        labels: integer array of shape (N,), class numbers from 0, -1 where the class is unknown;
            kept as int32.

    Raises:
        DataError: shapes or types are others.

    Example:

    >>> daso_tf.data.Images(np.zeros((2, 8, 8, 3), np.uint8), [0, 1]).size
    (8, 8)
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(
                f"Images are {images.dtype} of shape {images.shape}; they must be uint8 RGB in "
                "0..255 of shape (N, height, width, 3). Repeat the channel of grey images three "
                "times, and scale floats to 0..255 first."
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DataError(
                f"Labels are {labels.dtype} of shape {labels.shape} for {len(images)} images; "
                f"they must be integers of shape ({len(images)},), one an image."
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int32))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1:3]


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

    labeled: Images
    unlabeled: Images
    validation: Images | None
    test: Images | None
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


def channel_statistics(*parts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns channel means and standard deviations, in 0..1, over all pixels of all parts.

    Args:
        *parts: uint8 arrays of shape (N, height, width, 3).

    Returns:
        Two tuples of three floats. A channel that never changes gets the deviation of one grey
        level, so that normalising by it stays finite.
    """
    # Counts of grey levels are exact integers, so the result does not depend on the order of
    # summation, and blocks keep the temporary arrays small.
    counts = np.zeros((3, 256), np.int64)
    for images in parts:
        for start in range(0, len(images), 1024):
            block = images[start : start + 1024]
            for channel in range(3):
                counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    total = np.maximum(counts.sum(axis=1), 1)
    mean = counts @ levels / total
    variance = counts @ levels**2 / total - mean**2
    std = np.sqrt(np.maximum(variance, (1 / 255) ** 2))
    return tuple(mean.tolist()), tuple(std.tolist())


def _check_parts(data: SemiSupervisedData) -> None:
    if data.num_classes < 2:
        raise DataError(f"Found {data.num_classes} class; a classifier needs at least 2.")
    if not len(data.unlabeled):
        raise DataError(
            "There are no unlabeled images; semi-supervised learning needs some. Give an "
            "unlabeled folder or array, or carve them from the training images with unlabeled_head."
        )
    parts = {name: getattr(data, name) for name in ("labeled", "unlabeled", "validation", "test")}
    for name, part in parts.items():
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
