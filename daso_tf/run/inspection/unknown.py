"""How much a picture looks like none of the classes."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

REJECTED = 0.05  # share of held-out pictures of the classes that is wrongly called unknown


def unknown_scores(logits: np.ndarray) -> np.ndarray:
    """Returns the energy of pictures: high where no class is likely.

    Args:
        logits: float `(N, K)`, without logit adjustment.

    Returns:
        float `(N,)`.

    Example:

    >>> unknown_scores(np.array([[9.0, 0.0], [1.0, 0.0]])).round(2).tolist()
    [-9.0, -1.31]

    Reference:
        Liu, Wang, Owens and Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020,
        equation 4.
    """
    return -logsumexp(logits, axis=1)


def threshold(scores: np.ndarray) -> float:
    """Returns the score above which a picture is called unknown.

    Args:
        scores: float `(N,)`, those of held-out pictures of the classes.

    Returns:
        Their quantile above which 5 % of them lie.
    """
    return float(np.quantile(scores, 1 - REJECTED))
