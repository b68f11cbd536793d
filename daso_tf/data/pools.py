"""The images that a source offers, read only after the split has chosen among them."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from daso_tf.data import decode
from daso_tf.data.errors import DataError, UnreadableFiles
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.memory import empty_images

Size = tuple[int, int]  # height and width in pixels


class Pool(Protocol):
    """Images with labels that report their sizes and can then be read.

    `members` are always the positions of some of the images, an integer array.
    """

    def limited_to(self, max_megapixels: float) -> "Pool":
        """Returns the same images, of which larger files count as unreadable; see `load`."""

    @property
    def labels(self) -> np.ndarray:
        """Integer array of shape (N,), -1 where the class is not known."""

    def sizes(self, members: np.ndarray) -> tuple[set[Size], dict[int, DataError]]:
        """Returns the sizes of the images, and the errors of unreadable images by position."""

    def name(self, member: int) -> str:
        """Returns the path of an image, or its number where it has none."""

    def pixels(self, member: int) -> np.ndarray:
        """Reads one image at its own size; a `DataError` if it cannot be read."""

    def read(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> Images:
        """Reads the images into memory at `size`; unreadable images are counted and left out."""

    def stream(
        self, members: np.ndarray, size: Size, unreadable: UnreadableFiles
    ) -> Images | ImageFiles:
        """Returns the images without reading them now, where possible."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayPool:
    """Images in memory.

    Args:
        images: uint8 array of shape (N, height, width, 3).
        labels: See `Pool.labels`.
    """

    images: np.ndarray
    labels: np.ndarray

    def limited_to(self, max_megapixels: float) -> "ArrayPool":
        """See `Pool.limited_to`."""
        return self

    def sizes(self, members: np.ndarray) -> tuple[set[Size], dict[int, DataError]]:
        """See `Pool.sizes`."""
        return {self.images.shape[1:3]} if len(members) else set(), {}

    def name(self, member: int) -> str:
        """See `Pool.name`."""
        return f"image {member}"

    def pixels(self, member: int) -> np.ndarray:
        """See `Pool.pixels`."""
        return self.images[member]

    def read(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> Images:
        """See `Pool.read`."""
        if self.images.shape[1:3] != size:
            images = empty_images(len(members), size)
            for place, member in enumerate(members):
                images[place] = decode.resize(self.images[member], size)
        else:
            # Avoids a second copy of STL-10's 100,000 unlabeled images, which are used as they are.
            everything = len(members) == len(self.images)
            images = self.images if everything else self.images[members]
        return Images(images, self.labels[members])

    stream = read


@dataclasses.dataclass(frozen=True, eq=False)
class FilePool:
    """Images in files.

    Args:
        files: N paths or encoded images.
        labels: See `Pool.labels`.
        max_megapixels: Largest number of pixels of a file, in millions; see `decode.read_image`.
    """

    files: Sequence[decode.ImageFile]
    labels: np.ndarray
    max_megapixels: float = decode.MAX_MEGAPIXELS

    def limited_to(self, max_megapixels: float) -> "FilePool":
        """See `Pool.limited_to`."""
        return dataclasses.replace(self, max_megapixels=max_megapixels)

    def sizes(self, members: np.ndarray) -> tuple[set[Size], dict[int, DataError]]:
        """See `Pool.sizes`; reads only the headers of the files."""
        files = [self.files[member] for member in members]
        sizes, errors = decode.image_sizes(files, self.max_megapixels)
        return sizes, {int(members[place]): error for place, error in errors.items()}

    def name(self, member: int) -> str:
        """See `Pool.name`."""
        file = self.files[member]
        return file.name if isinstance(file, decode.EncodedImage) else os.fspath(file)

    def pixels(self, member: int) -> np.ndarray:
        """See `Pool.pixels`."""
        return decode.read_image(self.files[member], self.max_megapixels)

    def read(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> Images:
        """See `Pool.read`."""
        files = [self.files[member] for member in members]
        images, errors = decode.read_images(files, size, self.max_megapixels)
        unreadable.add(*errors.values())
        labels = self.labels[members]
        if errors:
            images, labels = (np.delete(array, list(errors), axis=0) for array in (images, labels))
            files = [file for place, file in enumerate(files) if place not in errors]
        return Images(images, labels, files)

    def stream(self, members: np.ndarray, size: Size, unreadable: UnreadableFiles) -> ImageFiles:
        """See `Pool.stream`."""
        files = [self.files[member] for member in members]
        return ImageFiles(files, self.labels[members], size, unreadable, self.max_megapixels)
