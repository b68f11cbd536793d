"""What a picture is near to: class prototypes and labeled pictures, by cosine similarity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Near(NamedTuple):
    """What some pictures are nearest to.

    Attributes:
        prototype: int `(N,)`, the class of the nearest prototype.
        prototype_similarity: float `(N,)` in [-1, 1].
        labeled: int `(N,)`, the position of the nearest labeled picture.
        labeled_similarity: float `(N,)` in [-1, 1].
    """

    prototype: np.ndarray
    prototype_similarity: np.ndarray
    labeled: np.ndarray
    labeled_similarity: np.ndarray


class Neighbors:
    """The labeled pictures by their features. The prototype of a class is the mean of its features.

    Args:
        features: float `(L, D)`.
        labels: int `(L,)`, classes in 0..K-1; every class occurs.

    Example:

    >>> near = Neighbors(np.eye(2), np.array([0, 1]))(np.array([[1.0, 3.0]]))
    >>> near.prototype.tolist(), near.labeled.tolist(), near.labeled_similarity.round(2).tolist()
    ([1], [1], [0.95])
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray):
        self.labeled = _normalized(features)
        classes = range(labels.max() + 1)
        self.prototypes = _normalized(
            np.array([features[labels == k].mean(axis=0) for k in classes])
        )

    def __call__(self, features: np.ndarray, own: np.ndarray | None = None) -> Near:
        """Finds what is nearest.

        Args:
            features: float `(N, D)`.
            own: int `(N,)`, the positions of the pictures if they are labeled ones: none is its
                own neighbor. By default they are others.

        Returns:
            What is `Near`.
        """
        features = _normalized(features)
        to_prototypes, to_labeled = features @ self.prototypes.T, features @ self.labeled.T
        rows = np.arange(len(features))
        if own is not None:
            to_labeled[rows, own] = -1
        prototype, labeled = to_prototypes.argmax(axis=1), to_labeled.argmax(axis=1)
        return Near(prototype, to_prototypes[rows, prototype], labeled, to_labeled[rows, labeled])


def _normalized(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)
