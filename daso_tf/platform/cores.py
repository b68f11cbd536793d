"""How many processor cores and GPUs this process may use, and what they have."""

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


def computes_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Returns whether the device that trains has instructions for bfloat16.

    These are tensor cores of a GPU since compute capability 8.0, or AMX, AVX512_BF16 and ARM's
    BF16 of a processor.

    Args:
        cpuinfo: The file in which Linux lists what the processor has.
    """
    if devices := tf.config.list_physical_devices("GPU"):
        details = map(tf.config.experimental.get_device_details, devices)
        return all(each.get("compute_capability", (0, 0)) >= (8, 0) for each in details)
    try:
        return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(cpuinfo.read_text().split())
    except OSError:  # not on Linux
        return False


def gpus() -> int:
    """Returns the number of GPUs that TensorFlow can use."""
    return len(tf.config.list_physical_devices("GPU"))


def gpu_memory() -> int | None:
    """Returns the bytes of memory that TensorFlow may use of the first GPU; None without one."""
    if not tf.config.list_logical_devices("GPU"):  # also applies the settings of the program
        return None
    devices = device_lib.list_local_devices()
    return next(device.memory_limit for device in devices if device.device_type == "GPU")
