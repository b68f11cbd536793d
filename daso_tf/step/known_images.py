"""Images of no class in a step: how parts get to know them, and that none of them is taught."""

from __future__ import annotations

import tensorflow as tf


def argument(belongs: tf.Tensor | None) -> dict[str, tf.Tensor]:
    """Returns the argument `belongs` of parts that take an open set; nothing without one.

    Args:
        belongs: float `(mu * batch,)`, 0 for images that belong to no class, else 1; None without
            an open set.

    Example:

    >>> argument(None)
    {}
    """
    return {} if belongs is None else {"belongs": belongs}


def mean(values: tf.Tensor, belongs: tf.Tensor | None) -> tf.Tensor:
    """Returns the mean over all images of what a loss is for each; 0 for those of no class.

    Args:
        values: float `(n * mu * batch,)`, of n views of the unlabeled images, one after another.
        belongs: As for `argument`.

    Returns:
        A scalar.

    Example:

    >>> float(mean(tf.constant([1.0, 5.0, 1.0, 5.0]), tf.constant([1.0, 0.0])))
    0.5
    """
    if belongs is None:
        return tf.reduce_mean(values)
    of_view = tf.reshape(values, (-1, tf.size(belongs)))
    return tf.reduce_mean(tf.cast(belongs, values.dtype) * of_view)


def taught(weights: tf.Tensor | None, belongs: tf.Tensor | None) -> tf.Tensor | None:
    """Returns how strongly images are taught: those of no class not at all.

    Args:
        weights: float `(mu * batch,)`, at least 0; None where all are taught fully.
        belongs: As for `argument`.

    Returns:
        float `(mu * batch,)`; None where all are taught fully.

    Example:

    >>> taught(tf.constant([0.5, 0.5]), tf.constant([1.0, 0.0])).numpy().tolist()
    [0.5, 0.0]
    """
    if belongs is None or weights is None:
        return weights if belongs is None else belongs
    return belongs * weights
