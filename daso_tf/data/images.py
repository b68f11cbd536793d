"""Images of one size with their labels, held in memory or read from files when needed.

`Images` and `ImageFiles` have the same interface: length, labels, size, `take` for some images as
an array, and `dataset` for batches.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from daso_tf.data import decode
from daso_tf.data.errors import DataError, UnreadableFiles
from daso_tf.data.memory import as_tensor

if TYPE_CHECKING:
    import tensorflow as tf

UNKNOWN = -1  # label of an image whose class is not known


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Images of one size in memory, with their labels.

    Args:
        images: uint8 array of shape (N, height, width, 3), RGB in 0..255.
        labels: Integer array of shape (N,), classes from 0, or -1 (`daso_tf.data.UNKNOWN`) where
            the class is not known; stored as int32.
        files: The N files that the images were read from; None if they are from none.

    Raises:
        DataError: If a shape or type is wrong.

    Example:

    >>> images = daso_tf.data.Images(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
    >>> images
    Images(2 images of size (8, 8), 2 classes)
    >>> images.size, len(images), images.labels
    ((8, 8), 2, array([0, 1], dtype=int32))
    """

    images: np.ndarray
    labels: np.ndarray
    files: Sequence[decode.ImageFile] | None = None

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(
                f"Images are {images.dtype} of shape {images.shape}; they must be uint8 RGB in "
                "0..255 of shape (N, height, width, 3). Repeat the channel of gray images three "
                "times, and scale floats to 0..255 first."
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DataError(
                f"Labels are {labels.dtype} of shape {labels.shape} for {len(images)} images; "
                f"they must be integers of shape ({len(images)},), one per image."
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int32))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Images({_summary(self)})"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.images.shape[1:3]
        return height, width

    def take(self, members: np.ndarray) -> np.ndarray:
        """Returns some of the images.

        Args:
            members: Integer array of shape (n,), positions in 0..N-1.

        Returns:
            uint8 array of shape (n, height, width, 3).
        """
        return self.images[members]

    def subset(self, members: np.ndarray) -> Images:
        """Returns some of the images with their labels.

        Args:
            members: Integer array of shape (n,), positions in 0..N-1.
        """
        return Images(self.images[members], self.labels[members])

    def dataset(
        self, members: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        """Makes batches of images and labels.

        Args:
            members: Dataset of positions, integers in 0..N-1.
            batch_size: Images per batch.
            drop_remainder: Whether to leave out a last batch that is smaller.

        Returns:
            A dataset of pairs: uint8 images of shape (b, height, width, 3), int32 labels of shape
            (b,).
        """
        import tensorflow as tf

        values, labels = as_tensor(self.images), as_tensor(self.labels)
        members = members.batch(batch_size, drop_remainder)
        return members.map(lambda at: (tf.gather(values, at), tf.gather(labels, at)))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageFiles:
    """Image files with their labels, read in parallel each time they are needed.

    Where a file cannot be read, the next readable file takes its place, with its own label. The
    images of a step thus depend only on the number of the step, which a resumed run relies on.

    Args:
        files: N files: paths, or `daso_tf.data.decode.EncodedImage`.
        labels: Integer array of shape (N,), classes from 0, or -1 (`daso_tf.data.UNKNOWN`) where
            the class is not known; stored as int32.
        size: Height and width in pixels; all images are resized to it.
        unreadable: Counts the files that cannot be read. By default none may be unreadable.
        max_megapixels: Largest number of pixels of a file, in millions; see `read_image`.

    Example:

    >>> import os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "cat.png")
    ...     Image.new("RGB", (20, 10), "white").save(path)
    ...     images = daso_tf.data.ImageFiles([path], [0], size=(8, 8))
    ...     images, images.take(np.array([0])).shape
    (ImageFiles(1 image of size (8, 8), 1 class), (1, 8, 8, 3))
    """

    files: Sequence[decode.ImageFile]
    labels: np.ndarray
    size: tuple[int, int]
    unreadable: UnreadableFiles = dataclasses.field(
        default_factory=lambda: UnreadableFiles(0, "all of these images must be readable")
    )
    max_megapixels: float = decode.MAX_MEGAPIXELS
    _left_out: set[int] = dataclasses.field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels).astype(np.int32))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageFiles({_summary(self)})"

    def take(self, members: np.ndarray) -> np.ndarray:
        """Reads some of the images; see `Images.take`."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack([image for image, _ in pool.map(self._read, members)])

    def dataset(
        self, members: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        """Makes batches of images and labels; see `Images.dataset`."""
        import tensorflow as tf

        def read(member: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Pillow releases Python's lock while it decodes, so these calls use all cores.
            image, label = tf.numpy_function(self._read, [member], [tf.uint8, tf.int32])
            return tf.ensure_shape(image, (*self.size, 3)), tf.ensure_shape(label, ())

        images = members.map(read, num_parallel_calls=os.cpu_count(), deterministic=True)
        return images.batch(batch_size, drop_remainder)

    def subset(self, members: np.ndarray) -> ImageFiles:
        """Returns some of the files with their labels; see `Images.subset`."""
        files = [self.files[member] for member in members.tolist()]
        return dataclasses.replace(self, files=files, labels=self.labels[members])

    @property
    def left_out(self) -> set[int]:
        """Positions of the files that could not be read so far."""
        return self._left_out

    def labels_as_read(self) -> np.ndarray:
        """Returns the label of the image that is read in the place of each file."""
        places = np.setdiff1d(np.arange(len(self)), list(self._left_out))
        following = np.searchsorted(places, np.arange(len(self))) % max(len(places), 1)
        return self.labels[places[following]] if len(places) else self.labels

    def _read(self, member: int) -> tuple[np.ndarray, np.int32]:
        for place in range(member, member + len(self)):
            place %= len(self)
            if place in self._left_out:
                continue
            try:
                image = decode.read_at_size(self.files[place], self.size, self.max_megapixels)
                return image, self.labels[place]
            except DataError as error:
                self._left_out.add(place)
                self.unreadable.add(error)
        raise DataError("None of the image files can be read.")


def joined(first: Images | ImageFiles, second: Images | ImageFiles) -> Images | ImageFiles:
    """Returns the images of both, one after the other.

    Args:
        first: Images of one size.
        second: More images of this size. If not all of both are files, all are read.

    Example:

    >>> images = daso_tf.data.Images(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
    >>> joined(images, images)
    Images(4 images of size (8, 8), 2 classes)
    """
    labels = np.concatenate([first.labels, second.labels])
    if isinstance(first, ImageFiles) and isinstance(second, ImageFiles):
        files = [*first.files, *second.files]
        return ImageFiles(files, labels, first.size, first.unreadable, first.max_megapixels)
    images = np.concatenate([part.take(np.arange(len(part))) for part in (first, second)])
    known = first.files is not None and second.files is not None
    return Images(images, labels, [*first.files, *second.files] if known else None)  # type: ignore[misc]


def _summary(images: Images | ImageFiles) -> str:
    """Returns counts, size and classes in words, for a `repr`."""
    known = images.labels[images.labels != UNKNOWN]
    classes, unknown = len(np.unique(known)), len(images) - len(known)
    parts = [f"{len(images)} image{'s' * (len(images) != 1)} of size {images.size}"]
    if classes:
        parts.append(f"{classes} class{'es' * (classes > 1)}")
    if unknown:
        parts.append(f"{unknown} of unknown class")
    return ", ".join(parts)
