"""Channel means and standard deviations, which normalize images."""

import numpy as np

from daso_tf.data.errors import DataError

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


def channel_statistics(*images: np.ndarray) -> Statistics:
    """Computes the mean and standard deviation of each color channel, over all pixels.

    Learners normalize images with them: pass them as the arguments `mean` and `std`.

    Args:
        *images: uint8 arrays of shape (N, height, width, 3), RGB in 0..255. Arrays may differ in
            size. Pass the training images, labeled and unlabeled.

    Returns:
        Two tuples of three floats: means and standard deviations, of channel values scaled to
        0..1. The standard deviation is at least 1/255, so that a constant channel can be
        normalized too.

    Raises:
        DataError: If an array has another shape or type, or there is no image.

    Example:

    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> images[0, ..., 0] = 255
    >>> mean, std = daso_tf.data.channel_statistics(images)
    >>> mean
    (0.5, 0.0, 0.0)
    >>> std[0]
    0.5
    """
    # Counts of pixel values are exact integers, so the result does not depend on the order of
    # summation. Blocks keep the temporary arrays small.
    counts = np.zeros((3, 256), np.int64)
    for part in map(np.asarray, images):
        if part.dtype != np.uint8 or part.ndim != 4 or part.shape[-1] != 3:
            raise DataError(
                f"channel_statistics got {part.dtype} of shape {part.shape}; images must be uint8 "
                "RGB in 0..255 of shape (N, height, width, 3). Scale floats to 0..255 first."
            )
        for start in range(0, len(part), 1024):
            block = part[start : start + 1024]
            for channel in range(3):
                counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    total = counts.sum(axis=1)
    if not total.all():
        raise DataError("channel_statistics got no pixels; give at least one image.")
    levels = np.arange(256) / 255
    mean = counts @ levels / total
    variance = counts @ levels**2 / total - mean**2
    std = np.sqrt(np.maximum(variance, (1 / 255) ** 2))
    return _three(mean), _three(std)


def _three(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue
