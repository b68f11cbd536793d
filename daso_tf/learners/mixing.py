"""What MixMatch and ReMixMatch share: sharpening, MixUp, and interleaved batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from daso_tf.platform.checks import checked_number
from daso_tf.platform.draws import whole_numbers
from daso_tf.pseudo_labels import PseudoLabeler, PseudoLabels
from daso_tf.step import known_images

_QUANTILE_BITS = 12


class MixUp(NamedTuple):
    """The draws of one MixUp.

    Attributes:
        weight: float32 scalar in [0.5, 1], the weight of each image itself.
        order: int32 `(count,)`, a permutation: the image that each one is mixed with.
    """

    weight: tf.Tensor
    order: tf.Tensor


def draw_mixup(seed: tf.Tensor, count: int | tf.Tensor, beta: float) -> MixUp:
    """Draws one weight, `max(l, 1 - l)` with l of Beta(beta, beta), and one permutation.

    The weight is one of 4,096 equally likely quantiles of its distribution, because TensorFlow
    cannot draw from a Beta distribution under XLA or on every device.

    Args:
        seed: int `(2,)`.
        count: Number of images.
        beta: Parameter of the Beta distribution, above 0. Near 0, images keep almost all of
            their own weight.

    Returns:
        A `MixUp`.

    Example:

    >>> mixup = draw_mixup(tf.constant([0, 1]), count=3, beta=0.5)
    >>> 0.5 <= float(mixup.weight) <= 1, sorted(mixup.order.numpy().tolist())
    (True, [0, 1, 2])

    Reference:
        Berthelot et al., "MixMatch", NeurIPS 2019, equations 8 and 9.
    """
    seeds = tf.random.experimental.stateless_split(seed, 2, alg="philox")
    middles = (np.arange(2**_QUANTILE_BITS) + 0.5) / 2**_QUANTILE_BITS
    quantiles = betaincinv(beta, beta, 0.5 + middles / 2)  # the upper half, as l is symmetric
    drawn = whole_numbers(seeds[0], 1, _QUANTILE_BITS)[0]
    order = tf.argsort(whole_numbers(seeds[1], count, 31), stable=True)
    return MixUp(tf.gather(tf.constant(quantiles, tf.float32), drawn), order)


def cut(mixup: MixUp, sizes: Sequence[int], count: int) -> MixUp:
    """Turns the MixUp of a whole batch into one MixUp within each microbatch.

    The partner of an image then comes from its own microbatch. The order of some of the images
    within a random permutation of all is itself a random permutation of them.

    Args:
        mixup: For the rows of several views, one view after another.
        sizes: Rows of each view, each a multiple of `count`.
        count: Number of microbatches; each has the same part of every view.

    Returns:
        A `MixUp` of weights `(count,)` and permutations `(count, rows of a microbatch)`.

    Example:

    >>> whole = MixUp(tf.constant(0.75), tf.constant([5, 3, 4, 0, 1, 2]))
    >>> cut(whole, sizes=[2, 4], count=2).order.numpy().tolist()  # of rows 0, 2, 3 and 1, 4, 5
    [[2, 1, 0], [1, 2, 0]]
    """
    views = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    rows = np.concatenate([view.reshape(count, -1) for view in views], axis=1)
    order = tf.argsort(tf.gather(mixup.order, rows), axis=1, stable=True)
    return MixUp(tf.fill([count], mixup.weight), order)


def of_known_images(mixup: MixUp, belongs: tf.Tensor) -> MixUp:
    """Lets no image be mixed with one that belongs to no class; it is mixed with itself instead.

    Args:
        mixup: Weight and permutation.
        belongs: float `(count,)`, 0 for images that belong to no class, else 1.

    Returns:
        A `MixUp` whose order is no permutation where such an image was a partner.

    Example:

    >>> mixup = MixUp(tf.constant(0.75), tf.constant([2, 0, 1]))
    >>> of_known_images(mixup, tf.constant([1.0, 1.0, 0.0])).order.numpy().tolist()
    [0, 0, 1]
    """
    known = tf.gather(belongs, mixup.order) > 0
    return mixup._replace(order=tf.where(known, mixup.order, tf.range(tf.size(mixup.order))))


def mix(values: tf.Tensor, mixup: MixUp) -> tf.Tensor:
    """Mixes each row, an image or a target, with another one.

    Args:
        values: float `(count, ...)`.
        mixup: Weight and permutation.

    Returns:
        float `(count, ...)`: the weight times the row, plus (1 - weight) times the other row.

    Reference:
        Berthelot et al., "MixMatch", NeurIPS 2019, equations 10 and 11.
    """
    weight = tf.cast(mixup.weight, values.dtype)
    return weight * values + (1 - weight) * tf.gather(values, mixup.order)


def sharpen(probabilities: tf.Tensor, temperature: float) -> tf.Tensor:
    """Raises probabilities to the power 1 / temperature and normalizes them.

    Args:
        probabilities: float `(batch, K)`, rows sum to 1.
        temperature: Above 0; below 1 it sharpens, 1 does not change them.

    Returns:
        float `(batch, K)`, rows sum to 1.

    Example:

    >>> sharpen(tf.constant([[0.75, 0.25]]), temperature=0.5).numpy().tolist()
    [[0.8999999761581421, 0.10000000149011612]]

    Reference:
        Berthelot et al., "MixMatch", NeurIPS 2019, equation 7.
    """
    powers = probabilities ** (1 / temperature)
    return powers / tf.reduce_sum(powers, axis=-1, keepdims=True)


def sharpened_pseudo_labels(
    labeler: PseudoLabeler,
    probabilities: tf.Tensor,
    temperature: float,
    features: tf.Tensor,
    step: tf.Tensor,
    positions: tf.Tensor | None,
    belongs: tf.Tensor | None = None,
) -> PseudoLabels:
    """Makes pseudo-labels of sharpened predictions.

    Predictions are sharpened before the pseudo-labeler gets them, or after it has aligned them if
    it asks for "unsharpened_predictions".

    Args:
        labeler: The pseudo-labeler.
        probabilities: float `(batch, K)`, rows sum to 1.
        temperature: As for `sharpen`.
        features: float `(batch, D)`, those of the predictions.
        step: int scalar, the number of steps done before this one.
        positions: As for `PseudoLabeler.call`.
        belongs: float `(batch,)`, 0 for images that belong to no class, else 1; None without an
            open set.

    Returns:
        The `PseudoLabels`.

    Reference:
        Wei et al., "CReST", CVPR 2021, section 3.3; in ReMixMatch, alignment comes first, too
        (Berthelot et al., "ReMixMatch", ICLR 2020, algorithm 1).
    """
    known = known_images.argument(belongs)
    if "unsharpened_predictions" not in labeler.asks_for:
        sharp = sharpen(probabilities, temperature)
        return labeler(sharp, features, step=step, positions=positions, **known)
    pseudo_labels = labeler(probabilities, features, step=step, positions=positions, **known)
    target = sharpen(pseudo_labels.target, temperature)
    return pseudo_labels._replace(target=target, confidence=tf.reduce_max(target, axis=-1))


def interleave(values: tf.Tensor, batch_size: int) -> tf.Tensor:
    """Exchanges pieces of the first batch with pieces of the other batches.

    The rows are whole batches, one after another. The first batch is cut into as many pieces as
    there are batches, and piece i changes places with the same rows of batch i. Applied twice, the
    function returns its input.

    Args:
        values: `(n * batch_size, ...)`, n known.
        batch_size: Rows of a batch.

    Returns:
        The same rows in another order.

    Raises:
        ValueError: If the number of rows is not known or not a multiple of `batch_size`.

    Example:

    >>> interleave(tf.constant([0, 1, 2, 10, 11, 12, 20, 21, 22]), 3).numpy().tolist()
    [0, 11, 22, 10, 1, 12, 20, 21, 2]
    """
    count = values.shape[0]
    if not count or not batch_size or count % batch_size:
        raise ValueError(
            f"{count} images cannot be cut into batches of {batch_size} labeled images. The number "
            "of unlabeled images must be a multiple of the labeled ones, and both must be known: "
            "make batches with drop_remainder=True."
        )
    batches = count // batch_size
    pieces = [(batch_size + i) // batches for i in range(batches)]  # the last are the larger ones
    piece = np.repeat(np.arange(batches), pieces)
    column = np.arange(batch_size)
    order = np.arange(count).reshape(batches, batch_size)
    order[0], order[piece, column] = order[piece, column].copy(), order[0].copy()
    return tf.gather(values, order.reshape(-1))


def mixed(
    network: Callable[[tf.Tensor], tf.Tensor],
    views: Sequence[tf.Tensor],
    targets: Sequence[tf.Tensor],
    mixup: MixUp,
    belongs: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes all views and their targets, and applies a network to the mixed images.

    The network gets interleaved batches of the size of the first view. BatchNorm normalizes each
    batch separately, so each should resemble the whole.

    Args:
        network: Maps a batch of images to logits.
        views: float `(any, height, width, 3)` each, the labeled ones first; the number of rows of
            each is a multiple of theirs.
        targets: float `(any, K)` each, of the same images.
        mixup: Weight and permutation for all of them.
        belongs: float, 0 for the images of each view after the first one that belong to no class,
            else 1: nothing is mixed with them. None without an open set.

    Returns:
        Logits and mixed targets, float `(all, K)` both, in the order of the views.

    Raises:
        ValueError: As for `interleave`.

    Reference:
        Berthelot et al., "MixMatch", NeurIPS 2019, section 3.3; the interleaving is of the
        authors' implementation.
    """
    batch_size = views[0].shape[0]
    if belongs is not None:
        unlabeled = [belongs] * (len(views) - 1)
        mixup = of_known_images(mixup, tf.concat([tf.ones(batch_size), *unlabeled], axis=0))
    images = interleave(mix(tf.concat(views, axis=0), mixup), batch_size)
    batches = tf.split(images, images.shape[0] // batch_size)
    logits = tf.concat([network(batch) for batch in batches], axis=0)
    return interleave(logits, batch_size), mix(tf.concat(targets, axis=0), mixup)


def check_arguments(sharpening_temperature: float, mixup_beta: float) -> None:
    """Raises a ValueError that names the argument outside its range."""
    checked_number("sharpening_temperature", sharpening_temperature, above=0)
    checked_number("mixup_beta", mixup_beta, above=0)
