"""The gradient of a step's losses: of the batch at once, or of one microbatch after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from daso_tf.platform.keras_versions import scaled_loss, unscaled_gradients

Tensors = Any  # a tensor, or a structure of them


def of_batch(
    compute: Callable[[], tuple],
    variables: Sequence[tf.Variable],
    optimizer: keras.optimizers.Optimizer,
) -> tuple[tuple, list[tf.Tensor]]:
    """Computes losses and the gradient of their sum.

    Args:
        compute: Gives back what a step computed, a `StepOutcome`.
        variables: What the gradient is by.
        optimizer: It says how the loss is scaled meanwhile, so that float16 holds the gradient.

    Returns:
        What `compute` gave back, and a gradient for each variable; 0 where the losses do not
        depend on it.
    """
    with tf.GradientTape() as tape:
        outcome = compute()
        total = scaled_loss(optimizer, tf.add_n(list(outcome.losses.values())))
    gradients = tape.gradient(total, variables, unconnected_gradients="zero")
    return outcome, unscaled_gradients(optimizer, gradients)


def of_microbatches(
    compute: Callable[..., tuple],
    microbatches: Tensors,
    count: int,
    variables: Sequence[tf.Variable],
    optimizer: keras.optimizers.Optimizer,
) -> tuple[tuple, list[tf.Tensor]]:
    """Does the same in equal parts, one after another: only one at a time is in memory.

    Args:
        compute: Gives back what it computed of a part, a `StepOutcome`. It gets the number of the
            part, an int32 scalar, and its tensors.
        microbatches: Tensors whose first axis is that of the parts, as `cut` makes them.
        count: How many parts there are.
        variables: What the gradient is by.
        optimizer: As for `of_batch`.

    Returns:
        What `compute` gave back, scalars averaged and the rows of everything else put together
        again; and the mean of the gradients.
    """

    @tf.function(autograph=False)
    def of_part(index):
        part = tf.nest.map_structure(lambda tensor: tensor[index], microbatches)
        outcome, gradients = of_batch(lambda: compute(index, *part), variables, optimizer)
        there = {name: value for name, value in outcome._asdict().items() if value is not None}
        kind.append(type(outcome))
        return there, gradients

    kind: list[type] = []
    # Traced before the loop, which has to know what a part gives back.
    of_part = of_part.get_concrete_function(tf.TensorSpec((), tf.int32))
    structure, gradients = of_part.structured_outputs
    collected = [
        tf.TensorArray(value.dtype, count, element_shape=value.shape)
        for value in tf.nest.flatten(structure)
    ]
    sums = [tf.zeros(gradient.shape, gradient.dtype) for gradient in gradients]

    def accumulate(index, collected, sums):
        there, gradients = of_part(index)
        values = tf.nest.flatten(there)
        return (
            index + 1,
            [array.write(index, value) for array, value in zip(collected, values, strict=True)],
            [total + gradient for total, gradient in zip(sums, gradients, strict=True)],
        )

    _, collected, sums = tf.while_loop(
        lambda index, *_: index < count, accumulate, (0, collected, sums), parallel_iterations=1
    )
    merged = tf.nest.pack_sequence_as(structure, [_merged(array.stack()) for array in collected])
    return kind[0](**merged), [total / count for total in sums]


def cut(rows: tf.Tensor, count: int) -> tf.Tensor:
    """Cuts rows, in their order, into equal parts.

    Args:
        rows: `(n, ...)`, n known.
        count: How many parts.

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
            "number of images has to be a multiple of microbatches, and known: make batches with "
            "drop_remainder=True."
        )
    return tf.reshape(rows, (count, size // count, *rows.shape[1:]))


def _merged(values: tf.Tensor) -> tf.Tensor:
    """Averages a scalar of each part; puts rows of each part one after another."""
    if values.shape.rank == 1:
        return tf.reduce_mean(values)
    return tf.reshape(values, (-1, *values.shape[2:]))
