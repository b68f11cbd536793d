"""Batches of images that are held in memory."""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from daso_tf.data.semi_supervised import UNKNOWN, DataError, Images, SemiSupervisedData
from daso_tf.data.shuffle import Stream, random_order


def training_batches(
    data: SemiSupervisedData,
    *,
    batch_size: int,
    unlabeled_ratio: int,
    seed: int,
    first_step: int = 0,
    steps: int | None = None,
) -> tf.data.Dataset:
    """Makes the batches of training steps, labeled and unlabeled images side by side.

    Both streams are endless passes over their images, each pass in a random order of its own in
    which every image comes once. The batch of a step depends on the seed and the number of the
    step alone, so training that is interrupted goes on with `first_step` as if it had not been.

    Args:
        data: the images.
        batch_size: labeled images a step (B in the paper).
        unlabeled_ratio: unlabeled images a step for each labeled one (mu).
        seed: integer >= 0 that fixes the orders.
        first_step: number of the step that the first batch is for.
        steps: number of batches; None for no end.

    Returns:
        A dataset of `((labeled, unlabeled), (labels, unlabeled_labels))`: uint8 images of shapes
        (B, height, width, 3) and (mu*B, height, width, 3), and int32 labels of shapes (B,) and
        (mu*B,), the latter -1 where unknown. Where no unlabeled image's class is known, the labels
        are those of shape (B,) alone.

    Raises:
        DataError: a batch is larger than the images it is drawn from.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    >>> batches = daso_tf.data.training_batches(data, batch_size=2, unlabeled_ratio=2, seed=0)
    >>> (labeled, unlabeled), labels = next(iter(batches))
    >>> labeled.shape, unlabeled.shape
    (TensorShape([2, 8, 8, 3]), TensorShape([4, 8, 8, 3]))
    """
    labeled_size, unlabeled_size = batch_size, batch_size * unlabeled_ratio
    _check_batch("labeled", labeled_size, len(data.labeled), "batch_size")
    _check_batch("unlabeled", unlabeled_size, len(data.unlabeled), "batch_size * unlabeled_ratio")
    labeled_order = _endless_order(len(data.labeled), Stream.LABELED_BATCHES, seed)
    unlabeled_order = _endless_order(len(data.unlabeled), Stream.UNLABELED_BATCHES, seed)

    truth_known = (data.unlabeled.labels != UNKNOWN).any()

    def batches() -> Iterator:
        numbers = itertools.count(first_step)
        for step in numbers if steps is None else itertools.islice(numbers, steps):
            at = labeled_order(step * labeled_size, labeled_size)
            unlabeled_at = unlabeled_order(step * unlabeled_size, unlabeled_size)
            images = (data.labeled.images[at], data.unlabeled.images[unlabeled_at])
            labels = (data.labeled.labels[at], data.unlabeled.labels[unlabeled_at])
            yield images, labels if truth_known else labels[0]

    image_specs, label_specs = zip(
        _specification(data.labeled, labeled_size),
        _specification(data.unlabeled, unlabeled_size),
        strict=True,
    )
    return _dataset(batches, (image_specs, label_specs if truth_known else label_specs[0]), steps)


def evaluation_batches(images: Images, batch_size: int) -> tf.data.Dataset:
    """Makes batches of every image once, in order; the last batch may be smaller.

    Args:
        images: the images.
        batch_size: images a batch.

    Returns:
        A dataset of pairs: uint8 images of shape (b, height, width, 3), int32 labels of shape (b,).

    Raises:
        DataError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}; it must be 1 or more.")
    starts = range(0, len(images), batch_size)

    def batches() -> Iterator:
        for start in starts:
            stop = start + batch_size
            yield images.images[start:stop], images.labels[start:stop]

    return _dataset(batches, _specification(images, None), len(starts))


def _endless_order(size: int, stream: Stream, seed: int) -> Callable[[int, int], np.ndarray]:
    """Returns a function of (start, count): the image numbers at those places of the stream."""

    @functools.lru_cache(maxsize=2)  # a batch seldom touches more than two passes
    def one_pass(number: int) -> np.ndarray:
        return random_order(size, stream, seed, number)

    def members(start: int, count: int) -> np.ndarray:
        passes = range(start // size, (start + count - 1) // size + 1)
        order = np.concatenate([one_pass(number) for number in passes])
        start -= passes[0] * size
        return order[start : start + count]

    return members


def _dataset(batches: Callable[[], Iterator], specification, count: int | None) -> tf.data.Dataset:
    dataset = tf.data.Dataset.from_generator(batches, output_signature=specification)
    cardinality = tf.data.INFINITE_CARDINALITY if count is None else count
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(cardinality))
    return dataset.prefetch(4)  # enough that a pause of the host does not stop the device


def _specification(images: Images, batch_size: int | None) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    return (
        tf.TensorSpec((batch_size, *images.size, 3), tf.uint8),
        tf.TensorSpec((batch_size,), tf.int32),
    )


def _check_batch(kind: str, asked: int, there: int, setting: str) -> None:
    if not 1 <= asked <= there:
        raise DataError(
            f"{setting} asks for {asked} {kind} images a step, and there are {there}; it must be "
            f"from 1 to {there}. Lower it or load more {kind} images."
        )
