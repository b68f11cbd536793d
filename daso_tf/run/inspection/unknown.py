"""How much a picture looks like none of the classes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from daso_tf.open_set import OpenSet
from daso_tf.run.inspection.answers import Answers


def unknown_scores(score: OpenSet, answers: Answers) -> np.ndarray:
    """Returns the unknown score of pictures: high where they look like no class.

    Args:
        score: Scores them.
        answers: Those about the pictures.

    Returns:
        float32 `(N,)`.
    """
    return score(tf.constant(answers.plain), tf.constant(answers.features)).numpy()
