"""The gradient of a step's losses: of the batch at once, or of one microbatch after another."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.keras_versions import scaled_loss, unscaled_gradients
from daso_tf.step.outcome import StepOutcome

Tensors = Any  # a tensor, or a structure of them

# The number of the microbatch whose losses are being computed.
_MICROBATCH: contextvars.ContextVar[int | tf.Tensor] = contextvars.ContextVar(
    "microbatch", default=0
)


def microbatch() -> int | tf.Tensor:
    """Returns the number of the microbatch whose losses are being computed; 0 without them."""
    return _MICROBATCH.get()


def of_batch(
    compute: Callable[[], StepOutcome],
    variables: Sequence[tf.Variable],
    optimizer: keras.optimizers.Optimizer,
) -> tuple[StepOutcome, list[tf.Tensor]]:
    """Computes losses and the gradient of their sum.

    Args:
        compute: Returns what a step computed.
        variables: The variables of the gradient.
        optimizer: Determines how the loss is scaled, so that float16 can represent the gradient.

    Returns:
        The result of `compute`, and the gradient of each variable; 0 where the losses do not
        depend on it.
    """
    with tf.GradientTape() as tape:
        outcome = compute()
        total = scaled_loss(optimizer, tf.add_n(list(outcome.losses.values())))
    gradients = tape.gradient(total, variables, unconnected_gradients="zero")
    return outcome, unscaled_gradients(optimizer, gradients)


def of_microbatches(
    compute: Callable[..., StepOutcome],
    microbatches: Tensors,
    count: int,
    variables: Sequence[tf.Variable],
    optimizer: keras.optimizers.Optimizer,
) -> tuple[StepOutcome, list[tf.Tensor]]:
    """Does the same in equal parts, one after another: only one of them is in memory at a time.

    Args:
        compute: Returns what it computed for a part, given the part's tensors.
        microbatches: Tensors whose first axis is that of the parts, as `cut` returns them.
        count: Number of parts.
        variables: The variables of the gradient.
        optimizer: As for `of_batch`.

    Returns:
        The result of `compute`, with scalars averaged and the rows of everything else joined, and
        the mean of the gradients.
    """

    @tf.function(autograph=False)
    def of_part(index):
        part = tf.nest.map_structure(lambda tensor: tensor[index], microbatches)
        token = _MICROBATCH.set(index)
        try:
            outcome, gradients = of_batch(lambda: compute(*part), variables, optimizer)
        finally:
            _MICROBATCH.reset(token)
        return {k: v for k, v in outcome._asdict().items() if v is not None}, gradients

    # It is traced before the loop, which must know the structure that a part returns.
    of_part = of_part.get_concrete_function(tf.TensorSpec((), tf.int32))
    structure, gradients = of_part.structured_outputs
    collected = [
        tf.TensorArray(value.dtype, count, element_shape=value.shape)
        for value in tf.nest.flatten(structure)
    ]
    sums = [tf.zeros(gradient.shape, gradient.dtype) for gradient in gradients]

    def accumulate(index, collected, sums):
        outcome, gradients = of_part(index)
        values = tf.nest.flatten(outcome)
        return (
            index + 1,
            [array.write(index, value) for array, value in zip(collected, values, strict=True)],
            [total + gradient for total, gradient in zip(sums, gradients, strict=True)],
        )

    _, collected, sums = tf.while_loop(
        lambda index, *_: index < count, accumulate, (0, collected, sums), parallel_iterations=1
    )
    merged = tf.nest.pack_sequence_as(structure, [_merged(array.stack()) for array in collected])
    return StepOutcome(**merged), [total / count for total in sums]


def cut(rows: tf.Tensor, count: int) -> tf.Tensor:
    """Cuts rows, in their order, into equal parts.

    Args:
        rows: `(n, ...)`, n known.
        count: Number of parts.

    Returns:
        `(count, n / count, ...)`.

    Raises:
        ValueError: If n is not known or not a multiple of `count`.

    Example:

    >>> cut(tf.constant([1, 2, 3, 4]), 2).numpy().tolist()
    [[1, 2], [3, 4]]
    """
    size = rows.shape[0]
    if not size or size % count:
        raise ValueError(
            f"A batch of {size} images cannot be cut into {count} microbatches of one size. The "
            "number of images must be known and a multiple of microbatches: make batches with "
            "drop_remainder=True."
        )
    return tf.reshape(rows, (count, size // count, *rows.shape[1:]))


def _merged(values: tf.Tensor) -> tf.Tensor:
    """Averages a scalar of each part; joins the rows of the parts."""
    if values.shape.rank == 1:
        return tf.reduce_mean(values)
    return tf.reshape(values, (-1, *values.shape[2:]))
