"""Images that a source offers, read only once it is known which of them are wanted."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from daso_tf.data import decode
from daso_tf.data.errors import DataError, UnreadableFiles
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.memory import empty_images

Size = tuple[int, int]  # height and width in pixels


class Pool(Protocol):
    """Labeled images that can be asked for their sizes and then read.

    Attributes:
        labels: int array of shape (N,), -1 where the class is unknown.
    """

    labels: np.ndarray

    def sizes(self, members: np.ndarray) -> tuple[set[Size], dict[int, DataError]]:
        """Returns the sizes of the images at `members`, and what is wrong with unreadable ones."""

    def read(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> Images:
        """Reads the images at `members` into memory, without those that turn out unreadable."""

    def stream(
        self, members: np.ndarray, size: Size, unreadable: UnreadableFiles
    ) -> Images | ImageFiles:
        """Returns the images at `members` without reading them now, where that is possible."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayPool:
    """Images that are in memory already: uint8 (N, height, width, 3)."""

    images: np.ndarray
    labels: np.ndarray

    def sizes(self, members: np.ndarray) -> tuple[set[Size], dict[int, DataError]]:
        """See `Pool.sizes`."""
        return {self.images.shape[1:3]}, {}

    def read(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> Images:
        """See `Pool.read`."""
        if self.images.shape[1:3] != size:
            images = empty_images(len(members), size)
            for place, member in enumerate(members):
                images[place] = decode.resize(self.images[member], size)
        else:
            # 100,000 images taken as they are must not be held twice.
            everything = len(members) == len(self.images)
            images = self.images if everything else self.images[members]
        return Images(images, self.labels[members])

    stream = read


@dataclasses.dataclass(frozen=True, eq=False)
class FilePool:
    """Images that are files, in a folder or elsewhere."""

    files: Sequence[decode.ImageFile]
    labels: np.ndarray

    def sizes(self, members: np.ndarray) -> tuple[set[Size], dict[int, DataError]]:
        """See `Pool.sizes`; looks at the files' headers alone."""
        sizes, errors = decode.image_sizes([self.files[member] for member in members])
        return sizes, {int(members[place]): error for place, error in errors.items()}

    def read(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> Images:
        """See `Pool.read`."""
        images, errors = decode.read_images([self.files[member] for member in members], size)
        unreadable.add(*errors.values())
        labels = self.labels[members]
        if errors:
            images, labels = (np.delete(array, list(errors), axis=0) for array in (images, labels))
        return Images(images, labels)

    def stream(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> ImageFiles:
        """See `Pool.stream`."""
        files = [self.files[member] for member in members]
        return ImageFiles(files, self.labels[members], size, unreadable)
