"""Images that a source offers, read only once it is known which of them are wanted."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from daso_tf.data import decode
from daso_tf.data.memory import empty_images


class Pool(Protocol):
    """Labeled images that can be asked for their sizes and then read.

    Attributes:
        labels: int array of shape (N,), -1 where the class is unknown.
    """

    labels: np.ndarray

    def sizes(self, members: np.ndarray) -> set[tuple[int, int]]:
        """Returns the sizes (height, width) that occur among the images at `members`."""

    def read(self, members: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns the images at `members`, uint8 of shape (len(members), *size, 3)."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayPool:
    """Images that are in memory already: uint8 (N, height, width, 3)."""

    images: np.ndarray
    labels: np.ndarray

    def sizes(self, members: np.ndarray) -> set[tuple[int, int]]:
        """See `Pool.sizes`."""
        return {self.images.shape[1:3]}

    def read(self, members: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """See `Pool.read`."""
        if self.images.shape[1:3] != size:
            resized = empty_images(len(members), size)
            for place, member in enumerate(members):
                resized[place] = decode.resize(self.images[member], size)
            return resized
        # 100,000 images taken as they are must not be held twice.
        return self.images if len(members) == len(self.images) else self.images[members]


@dataclasses.dataclass(frozen=True, eq=False)
class FilePool:
    """Images that are files, in a folder or elsewhere."""

    files: Sequence[decode.ImageFile]
    labels: np.ndarray

    def sizes(self, members: np.ndarray) -> set[tuple[int, int]]:
        """See `Pool.sizes`."""
        return decode.image_sizes([self.files[i] for i in members])

    def read(self, members: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """See `Pool.read`."""
        return decode.read_images([self.files[i] for i in members], size)
