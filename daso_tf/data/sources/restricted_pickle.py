"""Pickled arrays of numbers, read without running what a pickle may ask for."""

import pickle
from typing import IO, Any

import numpy as np


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles numbers, text, lists, dictionaries and NumPy arrays of these, nothing else.

    Example:

    >>> import io
    >>> RestrictedUnpickler(io.BytesIO(pickle.dumps({"data": np.arange(3)}))).load()
    {'data': array([0, 1, 2])}
    """

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="bytes")  # Python 2 wrote CIFAR's files

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a pickle calls by name, out of the few that make arrays.

        Raises:
            pickle.UnpicklingError: for any other name.
        """
        # NumPy 2 calls numpy.core by another name, and pickles of either are found.
        allowed = {
            "numpy.dtype": np.dtype,
            "numpy.ndarray": np.ndarray,
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.core.numeric._frombuffer": _from_buffer,
            "_codecs.encode": _encode,
        }
        full_name = f"{module}.{name}".replace("numpy._core", "numpy.core")
        if full_name not in allowed:
            raise pickle.UnpicklingError(f"it asks for {full_name}, which an array does not need")
        return allowed[full_name]


def _from_buffer(buffer, dtype, shape, order):
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    # How protocol 2 spells bytes; any other codec has no place in an array.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")
