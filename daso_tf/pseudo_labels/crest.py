"""CReST: which unlabeled images the next generation takes for labeled ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def select(
    probabilities: np.ndarray, labeled_counts: Sequence[int], alpha: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses pseudo-labeled images, the rarer their class the more of them.

    Pseudo-labels of rare classes are few but mostly right. Of the images that are predicted to be
    of the class of rank r, the most confident share `(n_(K-1-r) / n_0) ** (1 / alpha)` is taken,
    where n_r are the labeled images of the class of rank r, the most frequent one being rank 0: all
    images of the rarest class, the fewest of the most frequent one.

    Args:
        probabilities: float array of shape (M, K), predictions for the unlabeled images.
        labeled_counts: K numbers, labeled images of each class, each at least 1.
        alpha: Above 0; the larger, the more images are taken of frequent classes.

    Returns:
        Positions of the chosen images, ascending, and their classes: two int64 arrays.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> predictions = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    >>> positions, classes = select(predictions, labeled_counts=[8, 1], alpha=3)
    >>> positions.tolist(), classes.tolist()  # half of the first class's, all of the second's
    ([0, 2], [0, 1])

    Reference:
        Wei et al., "CReST: A Class-Rebalancing Self-Training Framework for Imbalanced
        Semi-Supervised Learning", CVPR 2021, equation 1.
    """
    counts = np.asarray(labeled_counts, np.float64)
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, not {alpha}.")
    if probabilities.ndim != 2 or probabilities.shape[1] != len(counts) or counts.min() < 1:
        raise ValueError(
            f"Predictions have shape {probabilities.shape} and labeled_counts are "
            f"{list(labeled_counts)}; they need one column and at least one image a class."
        )
    by_rank = np.argsort(-counts, kind="stable")
    rates = np.empty(len(counts))
    rates[by_rank] = (counts[by_rank[::-1]] / counts.max()) ** (1 / alpha)

    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    chosen = []
    for k, rate in enumerate(rates):
        members = np.flatnonzero(predicted == k)
        most_confident_first = members[np.argsort(-confidence[members], kind="stable")]
        # The 1e-9 keeps a whole number whole where the power function falls just below it.
        chosen.append(most_confident_first[: int(rate * len(members) + 1e-9)])
    positions = np.sort(np.concatenate(chosen))
    return positions, predicted[positions]


def alignment_temperature(generation: int, generations: int, smallest: float = 0.5) -> float:
    """Returns the temperature of CReST+'s distribution alignment, lower in each generation.

    Args:
        generation: Number of the generation, from 0.
        generations: How many there are.
        smallest: The temperature of the last one, in [0, 1]; the first has 1.

    Example:

    >>> [alignment_temperature(generation, 5) for generation in range(5)]
    [1.0, 0.875, 0.75, 0.625, 0.5]

    Reference:
        Wei et al., "CReST", CVPR 2021, section 3.3.
    """
    progress = generation / (generations - 1) if generations > 1 else 0.0
    return 1.0 - progress + progress * smallest
