"""How many processor cores and GPUs this process may use, and the memory of a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import tensorflow as tf
from tensorflow.python.client import device_lib  # the only way to the memory of a GPU


def cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Returns the number of cores that this process may use, at least 1.

    A container may see all cores of its host and yet get the time of a few.

    Args:
        limit: The file in which Linux says so: microseconds of processor time per period.

    Example:

    >>> cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):  # on Linux
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    try:
        time, period = limit.read_text().split()
        return max(1, min(available, int(time) // int(period)))
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return available


def gpus() -> int:
    """Returns the number of GPUs that TensorFlow can use."""
    return len(tf.config.list_physical_devices("GPU"))


def gpu_memory() -> int | None:
    """Returns the bytes of memory that TensorFlow may use of the first GPU; None without one."""
    if not tf.config.list_logical_devices("GPU"):  # also applies the settings of the program
        return None
    devices = device_lib.list_local_devices()
    return next(device.memory_limit for device in devices if device.device_type == "GPU")
