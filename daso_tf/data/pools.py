"""Images that a source offers, read only once it is known which of them are wanted."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from daso_tf.data import decode
from daso_tf.data.semi_supervised import DataError


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
            return np.stack([decode.resize(self.images[i], size) for i in members])
        # 100,000 images taken as they are must not be held twice.
        return self.images if len(members) == len(self.images) else self.images[members]


@dataclasses.dataclass(frozen=True, eq=False)
class FilePool:
    """Images that are files."""

    paths: Sequence[Path]
    labels: np.ndarray

    def sizes(self, members: np.ndarray) -> set[tuple[int, int]]:
        """See `Pool.sizes`."""
        return decode.image_sizes([self.paths[i] for i in members])

    def read(self, members: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """See `Pool.read`."""
        return decode.read_images([self.paths[i] for i in members], size)


def check_memory(count: int, size: tuple[int, int]) -> None:
    """Refuses images that would not fit into this machine's memory.

    Args:
        count: how many images.
        size: their height and width in pixels.

    Raises:
        DataError: with the arithmetic.
    """
    height, width = size
    needed, there = count * height * width * 3, machine_memory()
    if needed > there:
        raise DataError(
            f"{count:,} images x {height} x {width} x 3 bytes are {needed / 2**30:.1f} GiB, and "
            f"this machine has {there / 2**30:.1f} GiB of memory. Give a smaller source_size "
            "(pixels a side that images are held at), or fewer images."
        )


def machine_memory() -> int:
    """Returns the bytes of memory that this process may use."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # what a container may use of it, or "max"
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return memory
