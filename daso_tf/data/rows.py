"""Images of which only features are left: the rows of a feature bank.

`Rows` has the interface of `Images`, so batches, evaluation and self-training take either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from daso_tf.data import decode
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.memory import as_tensor

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Features of the stored views of images, and their labels.

    The row of an image is float16 `(views, D)`: first its plain view, the picture as it is, then
    its weak views, then its strong views, where there are any.

    Args:
        views: One array of shape (N, n, D) for each kind of view; they may be memory-mapped.
        labels: int32 array of shape (N,), classes from 0, or -1 where the class is not known.
        size: Height and width in pixels of the images that the features were computed from.
        pictures: These images; None where they are from several parts.

    Example:

    >>> views = [np.zeros((3, 1, 4), np.float16), np.ones((3, 2, 4), np.float16)]
    >>> rows = Rows(views, [0, 1, 0], size=(32, 32))
    >>> len(rows), rows.take(np.array([2]))[0, :, 0].tolist()
    (3, [0.0, 1.0, 1.0])
    """

    views: Sequence[np.ndarray]
    labels: np.ndarray
    size: tuple[int, int]
    pictures: Images | ImageFiles | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels).astype(np.int32))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        count, length = self.shape
        return f"Rows({len(self)} images, {count} views with {length} features each)"

    @property
    def shape(self) -> tuple[int, int]:
        """Views of an image, and features of a view (D)."""
        return sum(kind.shape[1] for kind in self.views), self.views[0].shape[2]

    @property
    def files(self) -> Sequence[decode.ImageFile] | None:
        """The files of the images; None where there are none."""
        return None if self.pictures is None else self.pictures.files

    def take(self, members: np.ndarray) -> np.ndarray:
        """Returns the rows of some images.

        Args:
            members: Integer array of shape (n,), positions in 0..N-1.

        Returns:
            float16 array of shape (n, views, D).
        """
        return np.concatenate([kind[members] for kind in self.views], axis=1)

    def dataset(
        self, members: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        """Makes batches of rows and labels; see `Images.dataset`."""
        import tensorflow as tf

        labels = as_tensor(self.labels)

        def batch(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # One short call of Python for a whole batch: NumPy reads what the system has mapped.
            rows = tf.numpy_function(self.take, [at], tf.float16)
            return tf.ensure_shape(rows, (at.shape[0], *self.shape)), tf.gather(labels, at)

        return members.batch(batch_size, drop_remainder).map(batch)

    def subset(self, members: np.ndarray) -> Rows:
        """Returns rows of some of the images.

        Args:
            members: Integer array of shape (n,), positions in 0..N-1.
        """
        views = [kind[members] for kind in self.views]
        return Rows(views, self.labels[members], self.size)

    def with_images_of(self, other: Rows, members: np.ndarray, labels: np.ndarray) -> Rows:
        """Adds images of other rows; of their views, those of the kinds that these rows have.

        Args:
            other: The other rows.
            members: Positions of the images to add.
            labels: The labels of all images, these and the added ones.

        Returns:
            The rows of both.
        """
        pairs = zip(self.views, other.views, strict=False)
        views = [np.concatenate([own, more[members]]) for own, more in pairs]
        return Rows(views, labels, self.size)
