"""Images of one size with their labels: held in memory, or in files and read when asked for.

Both can be asked the same: how many, which labels, which size, a few of them as an array, batches
of them as a dataset.
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from daso_tf.data import decode
from daso_tf.data.errors import DataError, UnreadableFiles
from daso_tf.data.memory import as_tensor

UNKNOWN = -1  # the label of an image whose class nobody knows


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

    def take(self, members: np.ndarray) -> np.ndarray:
        """Returns the images at `members`, uint8 of shape (len(members), height, width, 3)."""
        return self.images[members]

    def dataset(
        self, members: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        """Makes batches of images and labels.

        Args:
            members: dataset of positions, integers in 0..N-1.
            batch_size: images a batch.
            drop_remainder: whether a last batch that is smaller is left out.

        Returns:
            A dataset of pairs: uint8 images of shape (b, height, width, 3), int32 labels of shape
            (b,).
        """
        values, labels = as_tensor(self.images), as_tensor(self.labels)
        members = members.batch(batch_size, drop_remainder)
        return members.map(lambda at: (tf.gather(values, at), tf.gather(labels, at)))


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files with their labels, read in parallel whenever they are asked for.

    In place of a file that cannot be read stands the next one that can, image and label: so the
    images of a step stay a function of the step's number, as a resumed run needs it.

    Args:
        files: N files.
        labels: int32 array of shape (N,), class numbers from 0, -1 where the class is unknown.
        size: height and width in pixels that images are brought to.
        unreadable: counts the files that cannot be read.
    """

    files: Sequence[decode.ImageFile]
    labels: np.ndarray
    size: tuple[int, int]
    unreadable: UnreadableFiles

    def __post_init__(self):
        object.__setattr__(self, "labels", np.asarray(self.labels).astype(np.int32))
        object.__setattr__(self, "_left_out", set())

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, members: np.ndarray) -> np.ndarray:
        """See `Images.take`."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack([image for image, _ in pool.map(self._read, members)])

    def dataset(
        self, members: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        """See `Images.dataset`."""

        def read(member):
            # Pillow decodes without Python's lock, so these calls do use all cores.
            image, label = tf.numpy_function(self._read, [member], [tf.uint8, tf.int32])
            return tf.ensure_shape(image, (*self.size, 3)), tf.ensure_shape(label, ())

        images = members.map(read, num_parallel_calls=os.cpu_count(), deterministic=True)
        return images.batch(batch_size, drop_remainder)

    def _read(self, member: int) -> tuple[np.ndarray, np.int32]:
        for place in range(member, member + len(self)):
            place %= len(self)
            if place in self._left_out:
                continue
            try:
                image = decode.resize(decode.read_image(self.files[place]), self.size)
                return image, self.labels[place]
            except DataError as error:
                self._left_out.add(place)
                self.unreadable.add(error)
        raise DataError("None of the image files can be read.")
