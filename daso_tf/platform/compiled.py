"""Whether XLA compiles the whole of what is computed, where that decides which form is faster."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_BY_XLA = contextvars.ContextVar("by_xla", default=False)


@contextlib.contextmanager
def whole(compiled: bool) -> Iterator[None]:
    """Says, for what is traced inside, whether XLA compiles the whole of it.

    Args:
        compiled: Whether it does.

    Example:

    >>> with whole(True):
    ...     by_xla()
    True
    """
    token = _BY_XLA.set(compiled)
    try:
        yield
    finally:
        _BY_XLA.reset(token)


def by_xla() -> bool:
    """Returns whether XLA is known to compile what is traced now.

    Example:

    >>> by_xla()
    False
    """
    return _BY_XLA.get()
