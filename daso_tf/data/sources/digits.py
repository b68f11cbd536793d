"""The handwritten digits included in scikit-learn: 1,797 images of 8 x 8 pixels."""

import os

import numpy as np

from daso_tf.data.pools import ArrayPool
from daso_tf.data.shuffle import Stream, random_order
from daso_tf.data.sources.source import Source

_TEST_PER_CLASS = 36  # 360 images, a fifth; the smallest class has 174


def digits(data_dir: str | os.PathLike[str] | None = None) -> Source:
    """Returns the digits as RGB images. A fixed, class-balanced fifth of them is for testing.

    Args:
        data_dir: Not needed; scikit-learn includes the digits.

    Returns:
        A `Source`.

    Reference:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998; license CC BY 4.0.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    # scikit-learn's gray levels are 0..16.
    gray = np.round(bundled.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(gray[..., np.newaxis], 3, axis=-1)
    in_test = np.zeros(len(images), bool)
    for k in range(10):
        members = np.flatnonzero(bundled.target == k)
        in_test[members[random_order(len(members), Stream.DIGITS_TEST, k)[:_TEST_PER_CLASS]]] = True
    return Source(
        class_names=tuple(map(str, bundled.target_names)),
        train=ArrayPool(images[~in_test], bundled.target[~in_test]),
        test=ArrayPool(images[in_test], bundled.target[in_test]),
        listed=True,
    )
