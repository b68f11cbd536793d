"""Communication between the replicas of a distributed step.

Under a `tf.distribute` strategy, each replica computes the step for its own rows of the global
batch; replica 0 has the first rows. Everything that a step needs to know about all rows passes
through this module: gradients, features for the queues, counts, means. All replicas receive the
same result, so their variables stay equal. With one replica, the functions return their arguments.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf

Values = TypeVar("Values")

_EACH_ALONE = contextvars.ContextVar("each_alone", default=False)


@contextlib.contextmanager
def each_alone() -> Iterator[None]:
    """Lets every replica compute as if it were the only one, on inputs that all of them share.

    Example:

    >>> with each_alone():
    ...     count()
    1
    """
    token = _EACH_ALONE.set(True)
    try:
        yield
    finally:
        _EACH_ALONE.reset(token)


def count() -> int:
    """Returns the number of replicas that compute this step.

    Example:

    >>> count()
    1
    """
    context = _context()
    return 1 if context is None else context.num_replicas_in_sync


def mean(values: Values) -> Values:
    """Returns the mean over the replicas. Gradients flow through it.

    Args:
        values: A float tensor, or a list of float tensors, with the same shapes on every replica.

    Returns:
        The same structure as `values`.

    Example:

    >>> float(mean(tf.constant(3.0)))  # one replica
    3.0
    """
    return _reduced(tf.distribute.ReduceOp.MEAN, values)


def total(values: Values) -> Values:
    """Returns the sum over the replicas. Gradients flow through it.

    Args:
        values: A tensor, or a list of tensors, with the same shapes on every replica.

    Returns:
        The same structure as `values`.

    Example:

    >>> int(total(tf.constant(3)))  # one replica
    3
    """
    return _reduced(tf.distribute.ReduceOp.SUM, values)


def gather(rows: tf.Tensor) -> tf.Tensor:
    """Returns the rows of all replicas, in the order of the global batch. No gradient flows.

    Args:
        rows: `(count, ...)`, with the same count on every replica.

    Returns:
        `(replicas * count, ...)`.

    Example:

    >>> gather(tf.constant([1, 2])).numpy().tolist()  # one replica
    [1, 2]
    """
    context = _context()
    if context is None:
        return rows
    return context.all_gather(_on_device(tf.stop_gradient(rows)), axis=0)


def own_rows(rows: tf.Tensor) -> tf.Tensor:
    """Returns the rows of this replica, given the rows of the whole global batch.

    Args:
        rows: `(replicas * count, ...)`, the same on every replica.

    Returns:
        `(count, ...)`.

    Example:

    >>> own_rows(tf.constant([1, 2])).numpy().tolist()  # one replica
    [1, 2]
    """
    context = _context()
    if context is None:
        return rows
    own = tf.shape(rows)[0] // context.num_replicas_in_sync
    first = context.replica_id_in_sync_group * own
    return rows[first : first + own]


def own_copy(variable: tf.Variable) -> tf.Variable:
    """Returns the copy of a variable that this replica has.

    What a replica changes in its copy stays there: all replicas must do the same. Outside of the
    replicas of a step it is the first copy.

    Args:
        variable: A variable of TensorFlow or Keras.

    Example:

    >>> own_copy(tf.Variable(3.0)).assign_add(1.0).numpy().item()  # one replica
    4.0
    """
    return _copies(variable)[0]


def read_rows(variable: tf.Variable, indices: tf.Tensor, batch_dims: int = 0) -> tf.Tensor:
    """Returns some rows of a variable, without a copy of the others; otherwise as `tf.gather`.

    Args:
        variable: A variable of TensorFlow or Keras.
        indices: int, positions along the axis `batch_dims`.
        batch_dims: Number of first axes that `variable` and `indices` have in common.

    Example:

    >>> read_rows(tf.Variable([1, 2, 3]), tf.constant([2])).numpy().tolist()
    [3]
    """
    own = own_copy(variable)
    return tf.raw_ops.ResourceGather(
        resource=own.handle, indices=indices, dtype=own.dtype, batch_dims=batch_dims
    )


def write_rows(variable: tf.Variable, places: tf.Tensor, rows: tf.Tensor) -> None:
    """Overwrites some rows of a variable in place. All replicas must write the same rows.

    An assignment of the whole variable would copy it, which takes its time with a large one. After
    a write in place, TensorFlow copies the variable where it is read as a whole.

    Args:
        variable: A variable of TensorFlow or Keras.
        places: int `(count, dimensions)`, as for `tf.scatter_nd`. Where a place occurs twice, its
            rows must be equal: the order of the writes is undefined.
        rows: The new rows.

    Example:

    >>> variable = tf.Variable([1, 2, 3])
    >>> write_rows(variable, tf.constant([[2]]), tf.constant([5]))
    >>> variable.numpy().tolist()
    [1, 2, 5]
    """
    for copy in _copies(variable):
        copy.scatter_nd_update(places, rows)


def average(variables: Iterable[tf.Variable]) -> None:
    """Sets variables that each replica has updated on its own to their mean over the replicas.

    Args:
        variables: Float variables, in the same order on every replica.
    """
    variables = list(variables)
    if _context() is None or not variables:
        return
    means = mean([tf.convert_to_tensor(variable) for variable in variables])
    for variable, value in zip(variables, means, strict=True):
        variable.assign(value)


def set_sums(
    strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable], values: Sequence[np.ndarray]
) -> None:
    """Sets variables whose values are sums over the replicas, outside of a step.

    Args:
        strategy: The strategy of the variables.
        variables: Variables of metrics: each replica adds to its own.
        values: The sums. The first replica gets them whole; their parts would be rounded.

    Example:

    >>> variable = tf.Variable(0.0)
    >>> set_sums(tf.distribute.get_strategy(), [variable], [np.array(5.0)])
    >>> float(variable)
    5.0
    """

    def set_own() -> None:
        context = _context()
        share = 1 if context is None else tf.equal(context.replica_id_in_sync_group, 0)
        for variable, value in zip(variables, values, strict=True):
            value = tf.convert_to_tensor(value, variable.dtype)
            variable.assign(value * tf.cast(share, value.dtype))

    tf.function(lambda: strategy.run(set_own), autograph=False)()


def _reduced(operation: tf.distribute.ReduceOp, values: Values) -> Values:
    context = _context()
    return values if context is None else context.all_reduce(operation, _on_device(values))


def _copies(variable: tf.Variable) -> Sequence[tf.Variable]:
    """Returns the copy of this replica; outside of the replicas of a step all of this process."""
    if not isinstance(variable, tf.Variable):
        variable = variable.value  # Keras 3 has variables of its own
    if not isinstance(variable, tf.distribute.DistributedValues):
        return (variable,)
    copies = variable.values
    if len(copies) == 1 or tf.distribute.in_cross_replica_context():
        return copies
    # The replicas of a process have consecutive numbers.
    own = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
    return (copies[own % len(copies)],)


def _on_device(values: Values) -> Values:
    """Copies values to the device of this replica; tensors from outside the step are on none."""
    return tf.nest.map_structure(tf.identity, values)


def _context() -> tf.distribute.ReplicaContext | None:
    """Returns the context of this replica, or None if it is the only one."""
    context = None if _EACH_ALONE.get() else tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context
