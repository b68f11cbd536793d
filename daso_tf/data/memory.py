"""How many images fit into memory, and how TensorFlow gets them without a copy."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daso_tf.data.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

_ALIGNMENT = 64  # bytes; TensorFlow shares memory only if it starts at a multiple of this


def empty_images(count: int, size: tuple[int, int]) -> np.ndarray:
    """Allocates an array for images in memory that `as_tensor` does not copy.

    Args:
        count: How many images.
        size: Their height and width in pixels.

    Returns:
        uint8 array of shape (count, height, width, 3) with arbitrary content.

    Raises:
        DataError: If this machine does not have enough memory.
    """
    check_memory(count, size)
    shape = (count, *size, 3)
    room = np.empty(math.prod(shape) + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + math.prod(shape)].reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor on the host with the content of an array.

    An aligned array, such as one from `empty_images`, is shared and not copied: the 2.8 GB of
    STL-10 exist once. Such an array must not be changed afterwards.
    """
    import tensorflow as tf

    aligned = array.size and array.ctypes.data % _ALIGNMENT == 0
    if aligned and array.flags.c_contiguous and array.flags.writeable:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    # Not as a constant of the function of a dataset: its graph may have at most 2 GB.
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(array)


def check_memory(count: int, size: tuple[int, int]) -> None:
    """Refuses images that do not fit into this machine's memory.

    Args:
        count: How many images.
        size: Their height and width in pixels.

    Raises:
        DataError: If they do not fit; the message shows the calculation.
    """
    height, width = size
    needed, available = bytes_of(count, size), machine_memory()
    if needed > available:
        raise DataError(
            f"{count:,} images x {height} x {width} x 3 bytes are {needed / 2**30:.1f} GiB, and "
            f"this machine has {available / 2**30:.1f} GiB of memory. Give a smaller source_size "
            "(height and width in pixels at which images are kept), fewer images, or stream=True "
            "if the images are files."
        )


class Budget:
    """Bounds what several threads use at the same time.

    Args:
        total: What they may use together. One that needs more waits until it is alone.

    Example:

    >>> budget = Budget(100)
    >>> with budget.taking(60):
    ...     pass  # another thread with more than 40 waits
    """

    def __init__(self, total: int):
        self.total = total
        self._used = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Waits until there is room, and takes it inside the context.

        Args:
            amount: How much this thread uses.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + amount <= self.total)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()


def bytes_of(count: int, size: tuple[int, int]) -> int:
    """Returns the bytes of `count` images of `size` (height, width)."""
    height, width = size
    return count * height * width * 3


def machine_memory() -> int:
    """Returns the bytes of memory that this process may use."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # the limit of a container, or "max"
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return memory
