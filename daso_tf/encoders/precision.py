"""In which precision an encoder computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def dtype_policy(name: str | None) -> Iterator[None]:
    """Makes the layers that are built within compute in a precision.

    Args:
        name: A Keras dtype policy, such as `mixed_bfloat16`: layers compute in bfloat16, their
            variables are float32. None for the policy that is in force.

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
    """Whether a network, or any layer in it, computes in a precision, such as `float16`."""
    layers = getattr(encoder, "layers", ())
    return encoder.compute_dtype == dtype or any(computes_in(layer, dtype) for layer in layers)
