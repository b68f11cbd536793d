"""Images as their places in the data, for batches of a step that has the images at hand."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.memory import as_tensor, bytes_of
from daso_tf.data.rows import Rows

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Images of which batches have the positions instead of the pixels.

    Args:
        images: The images.

    Example:

    >>> images = daso_tf.data.Images(np.zeros((6, 8, 8, 3), np.uint8), np.arange(6))
    >>> import tensorflow as tf
    >>> batches = Places(images).dataset(tf.data.Dataset.range(6), 3, drop_remainder=True)
    >>> [at.numpy().tolist() for at, labels in batches]
    [[0, 1, 2], [3, 4, 5]]
    """

    images: Images

    def take(self, members: np.ndarray) -> np.ndarray:
        """Returns the positions; see `Images.take`."""
        return members

    def dataset(
        self, members: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        """Makes batches of positions, int64 of shape (b,), and labels; see `Images.dataset`."""
        import tensorflow as tf

        labels = as_tensor(self.images.labels)
        members = members.batch(batch_size, drop_remainder)
        return members.map(lambda at: (tf.cast(at, tf.int64), tf.gather(labels, at)))


def in_memory(images: Images | ImageFiles | Rows) -> Images:
    """Returns images if they are in memory, from where they can be copied to a device.

    Args:
        images: Images of a training run.

    Raises:
        DataError: If they are files, or rows of a feature bank.
    """
    if isinstance(images, Images):
        return images
    if isinstance(images, Rows):
        raise DataError("device_data needs images; these are rows of a feature bank.")
    raise DataError(
        f"device_data needs images in memory, but these {len(images):,} images "
        f"({bytes_of(len(images), images.size) / 2**30:.2f} GiB) are read from files when a batch "
        "needs them. Leave out device_data, or read all images at the start (stream=False)."
    )


def check_one_replica(replicas: int) -> None:
    """Refuses several replicas.

    Args:
        replicas: How many replicas compute a step.

    Raises:
        DataError: If there are several.
    """
    if replicas > 1:
        raise DataError(
            f"device_data needs one replica, not {replicas}: the images of a batch are on one "
            "device. Leave out device_data, or train on one device."
        )
