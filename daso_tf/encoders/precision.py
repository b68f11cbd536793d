"""The precision in which an encoder computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def dtype_policy(name: str | None) -> Iterator[None]:
    """Sets the dtype policy of layers that are built in this context.

    Args:
        name: A Keras dtype policy. With `"mixed_bfloat16"`, for example, layers compute in bfloat16
            and have float32 variables. None keeps the policy that is in force.

    Example:

    >>> with dtype_policy("mixed_bfloat16"):
    ...     layer = keras.layers.Dense(2)
    >>> layer.compute_dtype, keras.layers.Dense(2).compute_dtype
    ('bfloat16', 'float32')
    """
    before = keras.mixed_precision.global_policy()
    try:
        if name is not None:
            keras.mixed_precision.set_global_policy(name)
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def computes_in(encoder: keras.layers.Layer, dtype: str) -> bool:
    """Returns whether a network, or any layer in it, computes in a precision such as `"float16"`.

    Example:

    >>> computes_in(keras.layers.Dense(2, dtype="mixed_float16"), "float16")
    True
    """
    layers = getattr(encoder, "layers", ())
    return encoder.compute_dtype == dtype or any(computes_in(layer, dtype) for layer in layers)
