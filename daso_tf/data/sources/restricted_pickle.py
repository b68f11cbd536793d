"""Reads pickled arrays without running the code that a pickle can contain."""

import pickle
from typing import IO, Any, Literal

import numpy as np


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles numbers, text, lists, dictionaries and NumPy arrays of these, and nothing else.

    Args:
        file: The pickle, opened in binary mode.

    Example:

    >>> import io
    >>> RestrictedUnpickler(io.BytesIO(pickle.dumps({"data": np.arange(3)}))).load()
    {'data': array([0, 1, 2])}
    """

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="bytes")  # CIFAR's files were written by Python 2

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the few functions and classes that arrays need.

        Raises:
            pickle.UnpicklingError: If the pickle requests anything else.
        """
        # NumPy 2 renamed numpy.core to numpy._core; both names occur in pickles.
        allowed = {
            "numpy.dtype": np.dtype,
            "numpy.ndarray": np.ndarray,
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.core.numeric._frombuffer": _from_buffer,
            "_codecs.encode": _encode,
        }
        full_name = f"{module}.{name}".replace("numpy._core", "numpy.core")
        if full_name not in allowed:
            raise pickle.UnpicklingError(f"it requests {full_name}, which no array needs")
        return allowed[full_name]


def _from_buffer(
    buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]
) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    # Protocol 2 writes bytes as latin1 text. Arrays need no other codec.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it requests the codec {encoding!r}")
    return text.encode("latin1")
