"""The loss terms of a step, each a plain function of tensors."""

from __future__ import annotations

import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the cross-entropy of each image.

    Args:
        labels: int `(batch,)`, classes in 0..K-1.
        logits: float `(batch, K)`.

    Returns:
        float `(batch,)`.

    Example:

    >>> round(float(cross_entropy(tf.constant([1]), tf.constant([[0.0, 0.0]]))[0]), 4)
    0.6931
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def consistency(
    pseudo_labels: tf.Tensor, confidence: tf.Tensor, strong_logits: tf.Tensor, threshold: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes FixMatch's consistency loss.

    The cross-entropy of the strong view against the pseudo-label, over the images whose
    confidence reaches the threshold, divided by the number of *all* unlabeled images.

    Args:
        pseudo_labels: int `(batch,)`.
        confidence: float `(batch,)` in [0, 1].
        strong_logits: float `(batch, K)` of the strong views.
        threshold: Least confidence, in [0, 1].

    Returns:
        The scalar loss, and the mask, float `(batch,)` of 0 and 1.

    Example:

    >>> loss, mask = consistency(
    ...     tf.constant([0, 1]), tf.constant([0.99, 0.5]), tf.zeros((2, 2)), threshold=0.95)
    >>> round(float(loss), 4), mask.numpy().tolist()
    (0.3466, [1.0, 0.0])

    Reference:
        Sohn et al., "FixMatch", NeurIPS 2020, equation 4.
    """
    mask = tf.cast(confidence >= threshold, strong_logits.dtype)
    return tf.reduce_mean(mask * cross_entropy(pseudo_labels, strong_logits)), mask
