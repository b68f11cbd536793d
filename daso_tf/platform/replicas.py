"""What the replicas of a distributed step tell each other; where there is one, nothing is said.

Under a `tf.distribute` strategy every replica computes the step of its own rows of the global
batch: replica 0 the first of them, and so on. What a step must know of all rows goes through here:
the gradient, features for the queues, counts, means. Every replica gets the same answer, so that
all of them remember the same, and their variables never differ.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf


def count() -> int:
    """Returns how many replicas compute this step."""
    context = _context()
    return 1 if context is None else context.num_replicas_in_sync


def mean(values):
    """Returns the mean over the replicas, through which gradients flow.

    Args:
        values: A float tensor, or a list of them; of the same shapes on every replica.

    Returns:
        As much.

    Example:

    >>> float(mean(tf.constant(3.0)))  # one replica
    3.0
    """
    context = _context()
    if context is None:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, _on_device(values))


def total(values):
    """Returns the sum over the replicas; arguments as for `mean`."""
    context = _context()
    if context is None:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, _on_device(values))


def gather(rows: tf.Tensor) -> tf.Tensor:
    """Returns the rows of all replicas, in the order of the global batch; no gradient flows.

    Args:
        rows: `(count, ...)`, as many on every replica.
    """
    context = _context()
    if context is None:
        return rows
    return context.all_gather(_on_device(tf.stop_gradient(rows)), axis=0)


def own_rows(rows: tf.Tensor) -> tf.Tensor:
    """Returns this replica's part of what every replica has of the whole global batch.

    Args:
        rows: `(replicas * count, ...)`.

    Returns:
        `(count, ...)`.
    """
    context = _context()
    if context is None:
        return rows
    own = tf.shape(rows)[0] // context.num_replicas_in_sync
    first = context.replica_id_in_sync_group * own
    return rows[first : first + own]


def average(variables: Iterable[tf.Variable]) -> None:
    """Sets variables that the replicas have moved by themselves to their mean."""
    variables = list(variables)
    if _context() is None or not variables:
        return
    means = mean([tf.convert_to_tensor(variable) for variable in variables])
    for variable, value in zip(variables, means, strict=True):
        variable.assign(value)


def _on_device(values):
    """The values as tensors that know their device; those that come from outside a step do not."""
    return tf.nest.map_structure(tf.identity, values)


def _context() -> tf.distribute.ReplicaContext | None:
    """The context of this replica where there are others, else None."""
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context
