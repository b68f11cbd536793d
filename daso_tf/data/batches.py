"""Which images come in which batch.

An order is drawn of the images' positions, never of the images: a pass over any number of files is
shuffled as a whole and needs four bytes a file. The datasets are graphs of TensorFlow's own
operations; a Python generator in their place would contend with the training loop for Python's
lock, and keeps the interpreter from exiting while it is being asked for a batch.
"""

import math

import numpy as np
import tensorflow as tf

from daso_tf.data.errors import DataError
from daso_tf.data.images import UNKNOWN, ImageFiles, Images
from daso_tf.data.semi_supervised import SemiSupervisedData


def training_batches(
    data: SemiSupervisedData,
    *,
    batch_size: int,
    unlabeled_ratio: int,
    seed: int,
    first_step: int = 0,
    steps: int | None = None,
    with_positions: bool = False,
    class_balanced: bool = False,
    input_context: tf.distribute.InputContext | None = None,
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
        with_positions: whether batches say which unlabeled images they hold, for learners that
            `needs_positions`.
        class_balanced: whether labeled images are drawn instead, independently: first one of the
            classes, all alike, then one of its images.
        input_context: of the worker that the batches are for, under a strategy that distributes
            steps: `strategy.distribute_datasets_from_function` gives it. Batches are then those of
            one replica, of all replicas of the worker in turn, and no other image is read.

    Returns:
        A dataset of `((labeled, unlabeled), (labels, unlabeled_labels))`: uint8 images of shapes
        (B, height, width, 3) and (mu*B, height, width, 3), and int32 labels of shapes (B,) and
        (mu*B,), the latter -1 where unknown. Where no unlabeled image's class is known, the labels
        are those of shape (B,) alone. With positions, the images are `(labeled, unlabeled,
        positions)`, the latter int64 of shape (mu*B,): places among all unlabeled images.

    Raises:
        DataError: a batch is larger than the images it is drawn from, or cannot be split over the
            replicas.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> data = daso_tf.data.from_arrays(images[:2], [0, 1], images[2:])
    >>> batches = daso_tf.data.training_batches(data, batch_size=2, unlabeled_ratio=2, seed=0)
    >>> (labeled, unlabeled), labels = next(iter(batches))
    >>> labeled.shape, unlabeled.shape
    (TensorShape([2, 8, 8, 3]), TensorShape([4, 8, 8, 3]))
    """
    unlabeled_size = batch_size * unlabeled_ratio
    _check_batch("labeled", batch_size, len(data.labeled), "batch_size")
    _check_batch("unlabeled", unlabeled_size, len(data.unlabeled), "batch_size * unlabeled_ratio")
    labeled_members = (
        _class_balanced_members(data.labeled.labels, batch_size, first_step, seed=(seed, 2))
        if class_balanced
        else _members(len(data.labeled), batch_size, first_step, seed=(seed, 0))
    )
    unlabeled_members = _members(len(data.unlabeled), unlabeled_size, first_step, seed=(seed, 1))
    context = tf.distribute.InputContext() if input_context is None else input_context
    check_split(batch_size, context.num_replicas_in_sync)
    labeled_members = _of_worker(labeled_members, batch_size, context)
    unlabeled_members = _of_worker(unlabeled_members, unlabeled_size, context)
    batch_size //= context.num_replicas_in_sync
    unlabeled_size //= context.num_replicas_in_sync
    parts = (
        data.labeled.dataset(labeled_members, batch_size, drop_remainder=True),
        data.unlabeled.dataset(unlabeled_members, unlabeled_size, drop_remainder=True),
    )
    if with_positions:
        parts += (unlabeled_members.batch(unlabeled_size, drop_remainder=True),)
    truth_known = (data.unlabeled.labels != UNKNOWN).any()

    def together(labeled, unlabeled, *positions):
        images, labels = zip(labeled, unlabeled, strict=True)
        images += tuple(tf.cast(members, tf.int64) for members in positions)
        return images, labels if truth_known else labels[0]

    batches = tf.data.Dataset.zip(parts).map(together)
    replicas = context.num_replicas_in_sync // context.num_input_pipelines
    cardinality = tf.data.INFINITE_CARDINALITY if steps is None else steps * replicas
    batches = batches.take(cardinality)
    batches = batches.apply(tf.data.experimental.assert_cardinality(cardinality))
    return _finished(batches)


def evaluation_batches(images: Images | ImageFiles, batch_size: int) -> tf.data.Dataset:
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
    return _finished(images.dataset(tf.data.Dataset.range(len(images)), batch_size, False))


def even_batches(
    images: Images | ImageFiles,
    batch_size: int,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Makes batches of every image once, in order, all of one static shape.

    A function that is compiled for the first of them is so for all. Where the images cannot be cut
    evenly, the last one stands at the end again, as often as it takes.

    Args:
        images: the images, at least one.
        batch_size: images a batch, at most; at least one for each replica.
        input_context: as for `training_batches`.

    Returns:
        A dataset of pairs: uint8 images of shape (b, height, width, 3), int32 labels of shape (b,).

    Raises:
        DataError: `batch_size` is below the number of replicas.

    Example:

    >>> images = daso_tf.data.Images(np.zeros((5, 8, 8, 3), np.uint8), np.array([0, 1, 2, 3, 4]))
    >>> [labels.numpy().tolist() for _, labels in even_batches(images, batch_size=4)]
    [[0, 1, 2], [3, 4, 4]]
    """
    context = input_context or tf.distribute.InputContext()
    replicas = context.num_replicas_in_sync
    if batch_size < replicas:
        raise DataError(f"batch_size={batch_size}; it must be {replicas} or more.")
    batches = math.ceil(len(images) / (batch_size // replicas * replicas))
    of_replica = math.ceil(len(images) / batches / replicas)
    members = tf.data.Dataset.range(batches * of_replica * replicas)
    members = members.map(lambda member: tf.minimum(member, len(images) - 1))
    members = _of_worker(members, of_replica * replicas, context)
    return _finished(images.dataset(members, of_replica, drop_remainder=True))


def check_split(batch_size: int, replicas: int) -> None:
    """Refuses a batch that cannot be split evenly over the replicas of a step.

    Raises:
        DataError: with the sizes that can, nearest to it.
    """
    if batch_size % replicas:
        below = batch_size // replicas * replicas
        nearest = f"{below} or {below + replicas}" if below else str(replicas)
        raise DataError(
            f"batch_size={batch_size} cannot be split evenly over {replicas} replicas, as a step "
            f"needs it; take {nearest}."
        )


def _members(
    count: int, batch_size: int, first_step: int, seed: tuple[int, int]
) -> tf.data.Dataset:
    """Returns endless passes over positions 0..count-1, from what `first_step` gets."""

    def order_of_pass(number: tf.Tensor) -> tf.data.Dataset:
        pass_seed = tf.random.experimental.stateless_fold_in(tf.constant(seed, tf.int64), number)
        order = tf.random.experimental.stateless_shuffle(tf.range(count), pass_seed, alg="philox")
        return tf.data.Dataset.from_tensor_slices(order)

    first_pass, skipped = divmod(first_step * batch_size, count)
    passes = tf.data.Dataset.range(first_pass, tf.int64.max)
    return passes.flat_map(order_of_pass).skip(skipped)


def _of_worker(
    members: tf.data.Dataset, batch_size: int, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """Returns a worker's part of the positions of every batch."""
    if context.num_input_pipelines == 1:
        return members
    size = batch_size // context.num_input_pipelines
    first = context.input_pipeline_id * size
    return members.batch(batch_size).map(lambda batch: batch[first : first + size]).unbatch()


def _class_balanced_members(
    labels: np.ndarray, batch_size: int, first_step: int, seed: tuple[int, int]
) -> tf.data.Dataset:
    """Returns endless positions, each of an image of a random class, from `first_step` on."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts

    def draw(step: tf.Tensor) -> tf.data.Dataset:
        step_seed = tf.random.experimental.stateless_fold_in(tf.constant(seed, tf.int64), step)
        bits = tf.random.stateless_uniform(
            [2, batch_size], step_seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        of_class, within = tf.unstack(tf.cast(bits, tf.float64) * 2.0**-32)
        classes = tf.cast(of_class * len(counts), tf.int64)
        within = tf.cast(within * tf.gather(counts.astype(np.float64), classes), tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            tf.gather(by_class, tf.gather(starts, classes) + within)
        )

    return tf.data.Dataset.range(first_step, tf.int64.max).flat_map(draw)


def _finished(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # Rewriting the graph copies the images that it holds, and would gain nothing here.
    options.experimental_optimization.apply_default_optimizations = False
    # A few batches ahead, so that a pause of the host does not stop the device.
    return batches.prefetch(4).with_options(options)


def _check_batch(kind: str, asked: int, there: int, setting: str) -> None:
    if not 1 <= asked <= there:
        raise DataError(
            f"{setting} asks for {asked} {kind} images a step, and there are {there}; it must be "
            f"from 1 to {there}. Lower it or load more {kind} images."
        )
