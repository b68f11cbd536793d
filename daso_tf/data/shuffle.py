"""Random orders that are the same on every machine and under every NumPy version."""

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What an order is drawn for; equal seeds give each purpose an order of its own."""

    SPLIT = 0
    DIGITS_TEST = 1


def random_order(size: int, stream: Stream, *key: int) -> np.ndarray:
    """Returns the numbers 0..size-1 in a random order fixed by `stream` and `key`.

    `np.random.Generator.permutation` may change from one NumPy release to the next (NEP 19); the
    raw output of a bit generator may not, so the order is that of one raw draw per position.

    Args:
        size: how many numbers.
        stream: the purpose of the order.
        *key: integers >= 0, usually the seed and what tells this order from its neighbours.

    Returns:
        int64 array of shape (size,).
    """
    draws = np.random.PCG64([int(stream), *key]).random_raw(size)
    return np.argsort(draws, kind="stable")
