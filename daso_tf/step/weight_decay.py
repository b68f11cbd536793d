"""What weight decay decays, and how: added to the gradient, or by shrinking the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tensorflow as tf

# All parameters; those with more than one dimension; the network with its running statistics.
DECAYED = ("all", "kernels", "state")


def added(
    gradient: Sequence[tf.Tensor], variables: Sequence[tf.Variable], decay: float, decayed: str
) -> list[tf.Tensor]:
    """Adds L2 decay to a gradient, as PyTorch's SGD does.

    Args:
        gradient: One tensor per variable.
        variables: The trained variables.
        decay: Factor of the variable, at least 0.
        decayed: One of `DECAYED`; "state" adds nothing.

    Returns:
        One tensor per variable.

    Example:

    >>> kernel, bias = tf.Variable([[2.0]]), tf.Variable([4.0])
    >>> of_kernel, of_bias = added([tf.zeros((1, 1)), tf.zeros(1)], [kernel, bias], 0.5, "kernels")
    >>> float(of_kernel[0, 0]), float(of_bias[0])
    (1.0, 0.0)
    """
    if decayed == "state":
        return list(gradient)
    least = 2 if decayed == "kernels" else 0
    return [
        g + decay * v if len(v.shape) >= least else g
        for g, v in zip(gradient, variables, strict=True)
    ]


def shrink(variables: Iterable[tf.Variable], factor: tf.Tensor) -> None:
    """Multiplies variables by `1 - factor`; those that are not floating point stay.

    Args:
        variables: Weights and running statistics.
        factor: float scalar, the learning rate times the weight decay.

    Example:

    >>> variable = tf.Variable([2.0])
    >>> shrink([variable], tf.constant(0.25))
    >>> float(variable[0])
    1.5
    """
    for variable in variables:
        if tf.as_dtype(variable.dtype).is_floating:
            variable.assign((1.0 - tf.cast(factor, variable.dtype)) * variable)
