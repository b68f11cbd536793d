"""Makes the batches of training and evaluation.

Orders are drawn for the positions of images, not for the images themselves. A pass over any number
of files is thus shuffled as a whole and needs four bytes per file. The datasets consist of
TensorFlow's own operations: a Python generator would compete with the training loop for Python's
lock, and would keep the interpreter from exiting while it makes a batch.
"""

from __future__ import annotations

import atexit
import gc
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN, ImageFiles, Images
from daso_tf.data.places import Places, check_one_replica, in_memory
from daso_tf.data.rows import Rows
from daso_tf.data.semi_supervised import SemiSupervisedData, check_unlabeled
from daso_tf.data.shuffle import BatchStream, class_balanced_draws, endless_passes

if TYPE_CHECKING:
    import tensorflow as tf

    _Batch = tuple[tf.Tensor, tf.Tensor]  # images and labels


class Position:
    """Where the next iteration over training batches starts.

    Each iteration continues where the one before it ended, so the epochs of `fit` have different
    batches, and `repeat()` is the endless sequence of them.

    Args:
        next_step: Number of the step that the next iteration starts with.
        steps: Batches of one iteration.
        follows_learner: Whether `fit` sets it to the step of the learner that it trains.
        batches_from: Makes a dataset of its own of the same batches, given the first step and the
            number of steps.
        images: The labeled and the unlabeled images of which the batches have the positions; None
            where batches have images.
    """

    def __init__(
        self,
        next_step: int,
        steps: int,
        follows_learner: bool,
        batches_from: Callable[[int, int], tf.data.Dataset],
        images: tuple[Images, Images] | None = None,
    ):
        self.next_step = next_step
        self.steps = steps
        self.follows_learner = follows_learner
        self.batches_from = batches_from
        self.images = images

    def advance(self) -> np.int64:
        """Returns the first step of an iteration that starts now."""
        first = self.next_step
        self.next_step += self.steps
        return np.int64(first)


def position_of(batches: object) -> Position | None:
    """Returns the position of a dataset that `training_batches` made; None for all others."""
    return getattr(batches, "daso_tf_position", None)


def training_batches(
    data: SemiSupervisedData,
    *,
    batch_size: int,
    unlabeled_ratio: int,
    seed: int,
    first_step: int | None = None,
    steps: int | None = None,
    with_positions: bool = False,
    class_balanced: bool = False,
    labeled_alone: bool = False,
    device_data: bool = False,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Makes the batches of training steps: labeled and unlabeled images, in pairs.

    Both streams are endless passes over their images. Each pass has a random order of its own and
    contains every image once. The batch of a step depends only on the seed and the number of the
    step, so an interrupted training continues exactly as if it had not stopped.

    One iteration has `steps` batches, and the next one continues with the steps that follow: every
    epoch of `fit` has other batches, and `repeat()` makes the dataset endless.

    Args:
        data: The images.
        batch_size: Labeled images per step (B in the paper).
        unlabeled_ratio: Unlabeled images per labeled image (mu in the paper).
        seed: Integer >= 0 that determines the orders.
        first_step: Number of the step that the first batch is for. By default `fit` starts at the
            learner's own step, and every other use at 0.
        steps: Batches of one iteration. By default one pass over the unlabeled images (with
            `labeled_alone`, the labeled ones), rounded up;
            with an `input_context` no end, because Keras cannot tell the length of distributed
            batches.
        with_positions: Whether batches contain the positions of their unlabeled images, for
            learners whose `needs_positions` is true.
        class_balanced: Whether labeled images are drawn independently instead: first a class, all
            with the same probability, then one of its images.
        labeled_alone: Whether batches have no unlabeled images, for learners that use the labeled
            ones alone. The unlabeled part of a batch is then empty.
        device_data: Whether batches have positions, int64 of shapes (B,) and (mu*B,), in place of
            images. `fit` then copies all training images to the device once, and each step takes
            its images from there. The images must be in memory, and only one replica may train.
        input_context: The worker that the batches are for, under a strategy that distributes
            steps; `strategy.distribute_datasets_from_function` passes it. Each batch is then for
            one replica, for all replicas of the worker in turn, and only the worker's images are
            read.

    Returns:
        A dataset of `((labeled, unlabeled), (labels, unlabeled_labels))`: uint8 images of shapes
        (B, height, width, 3) and (mu*B, height, width, 3), and int32 labels of shapes (B,) and
        (mu*B,). Unlabeled labels are -1 where unknown; if all are unknown, the second element is
        `labels` alone. With positions, the first element is `(labeled, unlabeled, positions)`,
        where `positions` is int64 of shape (mu*B,): positions among all unlabeled images.

    Raises:
        DataError: If there are no unlabeled images, a batch is larger than the number of its
            images, it cannot be split evenly over the replicas, or `device_data` is not possible.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    >>> batches = daso_tf.data.training_batches(data, batch_size=2, unlabeled_ratio=2, seed=0)
    >>> (labeled, unlabeled), labels = next(iter(batches))
    >>> labeled.shape, unlabeled.shape
    (TensorShape([2, 8, 8, 3]), TensorShape([4, 8, 8, 3]))
    >>> len(batches)
    1
    """
    import tensorflow as tf

    unlabeled_size = batch_size * unlabeled_ratio
    _check_batch("labeled", batch_size, len(data.labeled), "batch_size")
    if not labeled_alone:
        check_unlabeled(len(data.unlabeled))
        requested = "batch_size * unlabeled_ratio"
        _check_batch("unlabeled", unlabeled_size, len(data.unlabeled), requested)
    context = tf.distribute.InputContext() if input_context is None else input_context
    check_split(batch_size, context.num_replicas_in_sync)
    labeled_images: Images | ImageFiles | Places = data.labeled
    unlabeled_images: Images | ImageFiles | Places = data.unlabeled
    on_device = None
    if device_data:
        check_one_replica(context.num_replicas_in_sync)
        labeled = in_memory(data.labeled)
        on_device = labeled, labeled if labeled_alone else in_memory(data.unlabeled)
        labeled_images, unlabeled_images = map(Places, on_device)
    if steps is None and input_context is None:
        images, per_step = (
            (data.labeled, batch_size) if labeled_alone else (data.unlabeled, unlabeled_size)
        )
        steps = math.ceil(len(images) / per_step)
    some_known = not labeled_alone and (data.unlabeled.labels != UNKNOWN).any()

    def together(labeled: _Batch, unlabeled: _Batch, *positions: tf.Tensor) -> tuple:
        images, labels = zip(labeled, unlabeled, strict=True)
        images += tuple(tf.cast(members, tf.int64) for members in positions)
        return images, labels if some_known else labels[0]

    def batches_from(step: tf.Tensor) -> tf.data.Dataset:
        if class_balanced:
            labeled = class_balanced_draws(data.labeled.labels, batch_size, seed, step)
        else:
            labeled = endless_passes(
                len(data.labeled), seed, BatchStream.LABELED, step * batch_size
            )
        labeled = _of_worker(labeled, batch_size, context)
        rows = batch_size // context.num_replicas_in_sync
        parts = [labeled_images.dataset(labeled, rows, drop_remainder=True)]
        if labeled_alone:
            none = labeled_images.take(np.zeros(0, np.int64)), np.zeros(0, np.int32)
            parts.append(tf.data.Dataset.from_tensors(none).repeat())
            return tf.data.Dataset.zip(tuple(parts)).map(together)
        unlabeled = endless_passes(
            len(data.unlabeled), seed, BatchStream.UNLABELED, step * unlabeled_size
        )
        unlabeled = _of_worker(unlabeled, unlabeled_size, context)
        rows = unlabeled_size // context.num_replicas_in_sync
        parts.append(unlabeled_images.dataset(unlabeled, rows, drop_remainder=True))
        if with_positions:
            parts.append(unlabeled.batch(rows, drop_remainder=True))
        return tf.data.Dataset.zip(tuple(parts)).map(together)

    def twin(first_step: int, steps: int) -> tf.data.Dataset:
        return training_batches(
            data,
            batch_size=batch_size,
            unlabeled_ratio=unlabeled_ratio,
            seed=seed,
            first_step=first_step,
            steps=steps,
            with_positions=with_positions,
            class_balanced=class_balanced,
            labeled_alone=labeled_alone,
            input_context=input_context,
        )

    position = Position(first_step or 0, steps or 0, first_step is None, twin, on_device)

    def iteration(_: tf.Tensor) -> tf.data.Dataset:
        return batches_from(tf.ensure_shape(tf.numpy_function(position.advance, [], tf.int64), ()))

    replicas = context.num_replicas_in_sync // context.num_input_pipelines
    count = tf.data.INFINITE_CARDINALITY if steps is None else steps * replicas
    batches = tf.data.Dataset.range(1).flat_map(iteration).take(count)
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    batches = _finished(batches)
    batches.daso_tf_position = position
    return batches


def evaluation_batches(images: Images | ImageFiles | Rows, batch_size: int) -> tf.data.Dataset:
    """Makes batches that contain every image once, in order. The last batch may be smaller.

    Args:
        images: The images.
        batch_size: Images per batch.

    Returns:
        A dataset of pairs: uint8 images of shape (b, height, width, 3), int32 labels of shape (b,).

    Raises:
        DataError: If `batch_size` is below 1.

    Example:

    >>> images = daso_tf.data.Images(np.zeros((5, 8, 8, 3), np.uint8), np.array([0, 1, 2, 3, 4]))
    >>> batches = daso_tf.data.evaluation_batches(images, batch_size=4)
    >>> [labels.numpy().tolist() for _, labels in batches]
    [[0, 1, 2, 3], [4]]
    """
    import tensorflow as tf

    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}; it must be 1 or more.")
    return _finished(images.dataset(tf.data.Dataset.range(len(images)), batch_size, False))


def even_batches(
    images: Images | ImageFiles | Rows,
    batch_size: int,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Makes batches that contain every image in order and all have the same static shape.

    A function compiled for the first batch is thus compiled for all of them. If the images cannot
    be divided evenly, the last image is repeated at the end; discard the results beyond the number
    of images.

    Args:
        images: The images, at least one.
        batch_size: The largest number of images per batch, at least one per replica.
        input_context: See `training_batches`.

    Returns:
        A dataset of pairs: uint8 images of shape (b, height, width, 3), int32 labels of shape (b,).

    Raises:
        DataError: If `batch_size` is below the number of replicas.

    Example:

    >>> images = daso_tf.data.Images(np.zeros((5, 8, 8, 3), np.uint8), np.array([0, 1, 2, 3, 4]))
    >>> batches = daso_tf.data.even_batches(images, batch_size=4)
    >>> [labels.numpy().tolist() for _, labels in batches]
    [[0, 1, 2], [3, 4, 4]]
    """
    import tensorflow as tf

    context = input_context or tf.distribute.InputContext()
    replicas = context.num_replicas_in_sync
    if batch_size < replicas:
        raise DataError(
            f"batch_size={batch_size}; it must be {replicas} or more, one image per replica."
        )
    batches = math.ceil(len(images) / (batch_size // replicas * replicas))
    per_replica = math.ceil(len(images) / batches / replicas)
    members = tf.data.Dataset.range(batches * per_replica * replicas)
    members = members.map(lambda member: tf.minimum(member, len(images) - 1))
    members = _of_worker(members, per_replica * replicas, context)
    return _finished(images.dataset(members, per_replica, drop_remainder=True))


def check_split(batch_size: int, replicas: int) -> None:
    """Checks that a batch can be split evenly over the replicas of a step.

    Args:
        batch_size: Labeled images per step.
        replicas: Number of replicas.

    Raises:
        DataError: If it cannot; the message names the nearest sizes that can.

    Example:

    >>> daso_tf.data.check_split(5, replicas=2)
    Traceback (most recent call last):
        ...
    daso_tf.data.errors.DataError: batch_size=5 cannot be split evenly over 2 replicas; use 4 or 6.
    """
    if batch_size % replicas:
        below = batch_size // replicas * replicas
        nearest = f"{below} or {below + replicas}" if below else str(replicas)
        raise DataError(
            f"batch_size={batch_size} cannot be split evenly over {replicas} replicas; "
            f"use {nearest}."
        )


def _of_worker(
    members: tf.data.Dataset, batch_size: int, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """Returns the worker's share of the positions of each batch."""
    if context.num_input_pipelines == 1:
        return members
    size = batch_size // context.num_input_pipelines
    first = context.input_pipeline_id * size
    return members.batch(batch_size).map(lambda batch: batch[first : first + size]).unbatch()


def _finished(batches: tf.data.Dataset) -> tf.data.Dataset:
    import tensorflow as tf

    options = tf.data.Options()
    # Optimizing the graph copies the images in it and makes nothing faster here.
    options.experimental_optimization.apply_default_optimizations = False
    # A few batches are made ahead, so that a pause of the host does not stop the device.
    return batches.prefetch(4).with_options(options)


def _check_batch(kind: str, requested: int, available: int, setting: str) -> None:
    if not 1 <= requested <= available:
        raise DataError(
            f"{setting} requests {requested} {kind} images per step, but there are {available}; it "
            f"must be from 1 to {available}. Lower it or load more {kind} images."
        )


@atexit.register
def free_iterators() -> None:
    """Frees the iterators that an uncaught exception holds, while Python still runs threads.

    Python deletes the exception later, when it runs none. Then an iterator waits forever for a
    thread that makes its batches and waits for Python, and the process does not end.
    """
    for name in ("last_exc", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)
    gc.collect()
