"""Channel means and deviations, which images are normalised with."""

import numpy as np


def channel_statistics(*parts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns channel means and standard deviations, in 0..1, over all pixels of all parts.

    Args:
        *parts: uint8 arrays of shape (N, height, width, 3).

    Returns:
        Two tuples of three floats. A channel that never changes gets the deviation of one grey
        level, so that normalising by it stays finite.
    """
    # Counts of grey levels are exact integers, so the result does not depend on the order of
    # summation, and blocks keep the temporary arrays small.
    counts = np.zeros((3, 256), np.int64)
    for images in parts:
        for start in range(0, len(images), 1024):
            block = images[start : start + 1024]
            for channel in range(3):
                counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    total = np.maximum(counts.sum(axis=1), 1)
    mean = counts @ levels / total
    variance = counts @ levels**2 / total - mean**2
    std = np.sqrt(np.maximum(variance, (1 / 255) ** 2))
    return tuple(mean.tolist()), tuple(std.tolist())
