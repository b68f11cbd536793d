"""The handwritten digits that come with scikit-learn: 1,797 images of 8 x 8 pixels."""

import numpy as np
from sklearn.datasets import load_digits

from daso_tf.data.pools import ArrayPool
from daso_tf.data.shuffle import Stream, random_order
from daso_tf.data.sources.source import Source

_TEST_PER_CLASS = 36  # 360 images, a fifth; the rarest digit has 174


def digits() -> Source:
    """Returns the digits as RGB images, a fixed class-balanced fifth of them for testing.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998; licence CC BY 4.0.
    """
    bundled = load_digits()
    # Grey levels are 0..16 there.
    grey = np.round(bundled.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    in_test = np.zeros(len(images), bool)
    for k in range(10):
        members = np.flatnonzero(bundled.target == k)
        in_test[members[random_order(len(members), Stream.DIGITS_TEST, k)[:_TEST_PER_CLASS]]] = True
    return Source(
        class_names=tuple(map(str, bundled.target_names)),
        train=ArrayPool(images[~in_test], bundled.target[~in_test]),
        test=ArrayPool(images[in_test], bundled.target[in_test]),
    )
