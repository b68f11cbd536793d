"""The loss terms of a step, each a plain function of tensors."""

from __future__ import annotations

import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.step import known_images


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
    pseudo_labels: tf.Tensor, weights: tf.Tensor, strong_logits: tf.Tensor
) -> tf.Tensor:
    """Computes FixMatch's consistency loss.

    It is the sum over the images of weight times cross-entropy of the strong view with the
    pseudo-label, divided by the number of *all* unlabeled images.

    Args:
        pseudo_labels: int `(batch,)`.
        weights: float `(batch,)`, at least 0, how strongly each is taught.
        strong_logits: float `(batch, K)` of the strong views.

    Returns:
        A scalar.

    Example:

    >>> loss = consistency(tf.constant([0, 1]), tf.constant([1.0, 0.0]), tf.zeros((2, 2)))
    >>> round(float(loss), 4)
    0.3466

    Reference:
        Sohn et al., "FixMatch", NeurIPS 2020, equation 4.
    """
    weights = tf.cast(weights, strong_logits.dtype)
    return tf.reduce_mean(weights * cross_entropy(pseudo_labels, strong_logits))


def soft_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the cross-entropy of each image against a distribution over the classes.

    Args:
        targets: float `(batch, K)`, rows sum to 1.
        logits: float `(batch, K)`.

    Returns:
        float `(batch,)`.

    Example:

    >>> targets = tf.constant([[0.5, 0.5]])
    >>> round(float(soft_cross_entropy(targets, tf.constant([[1.0, 1.0]]))[0]), 4)
    0.6931
    """
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def squared_error(
    targets: tf.Tensor, logits: tf.Tensor, belongs: tf.Tensor | None = None
) -> tf.Tensor:
    """Computes the mean squared error of predicted probabilities.

    It is the mean over the images *and over the classes*, so it decreases with 1 / K.

    Args:
        targets: float `(batch, K)`, rows sum to 1.
        logits: float `(batch, K)`.
        belongs: As for `daso_tf.step.known_images.mean`: the error of images of no class is 0.

    Returns:
        A scalar.

    Example:

    >>> float(squared_error(tf.constant([[1.0, 0.0]]), tf.zeros((1, 2))))
    0.25

    Reference:
        Berthelot et al., "MixMatch", NeurIPS 2019, equation 4.
    """
    squared = tf.square(tf.nn.softmax(logits) - targets)
    if belongs is None:
        return tf.reduce_mean(squared)
    return known_images.mean(tf.reduce_mean(squared, axis=-1), belongs)


def mutual_information(
    first_logits: tf.Tensor, second_logits: tf.Tensor, belongs: tf.Tensor | None = None
) -> tf.Tensor:
    """Computes the negative mutual information of the classes of two views of the same images.

    Let P be the mean over the batch of the outer products of the two views' probabilities, made
    symmetric. The result is `-sum_kj P_kj log(P_kj / (P_k P_j))`. It is smallest where every image
    has one certain class, the same in both views, and all classes are equally frequent.

    Args:
        first_logits: float `(batch, K)`.
        second_logits: float `(batch, K)`.
        belongs: float `(batch,)`, 0 for images of no class, which are left out, else 1; None leaves
            none out.

    Returns:
        A scalar in [-log K, 0].

    Example:

    >>> sure = 100 * tf.eye(2)
    >>> round(float(mutual_information(sure, sure)), 4)  # -log 2
    -0.6931

    Reference:
        Ji, Henriques and Vedaldi, "Invariant Information Clustering", ICCV 2019, equation 3; in
        semi-supervised learning: Han et al., "USADTM", NeurIPS 2020, section 3.2.
    """
    first, second = tf.nn.softmax(first_logits), tf.nn.softmax(second_logits)
    if belongs is not None:
        first *= belongs[:, None]
    joint = tf.matmul(first, second, transpose_a=True)
    joint = replicas.mean(joint + tf.transpose(joint))
    total = tf.reduce_sum(joint)
    joint = joint / total if belongs is None else tf.math.divide_no_nan(joint, total)
    # log 0 is not finite, but p log p is 0 for p = 0.
    tiny = tf.constant(1e-16, joint.dtype)
    marginal = tf.maximum(tf.reduce_sum(joint, axis=0), tiny)
    joint = tf.maximum(joint, tiny)
    logarithm = tf.math.log(marginal)
    return -tf.reduce_sum(joint * (tf.math.log(joint) - logarithm[:, None] - logarithm[None, :]))
