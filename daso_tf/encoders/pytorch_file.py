"""PyTorch's older file format, read without PyTorch and without running anything from the file.

Such a file is a sequence of pickles, followed by the values of the arrays. A pickle is a program
for a machine with a stack. `pickle.load` lets it call any function that can be imported. The
machine here knows the instructions of a state dict only, and the few names in `_NAMES`, which it
does not import.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_TYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
_DICT, _ARRAY = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_NAMES = {_DICT, _ARRAY, *_TYPES}
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()
_MOST_AXES = 8
_DAMAGED = "it is no state dict of PyTorch, or damaged"


class _Name(NamedTuple):
    """One of `_NAMES`, which stands for nothing else."""

    text: str


class _Storage(NamedTuple):
    """The values of one or more arrays, by the key under which they follow the pickles."""

    key: str
    dtype: str
    length: int


class _Array(NamedTuple):
    """An array: which values of a storage it has, in which order."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` of PyTorch before 1.6 wrote.

    Args:
        path: Path of the file.

    Returns:
        One read-only array per name, float32 or int64, in the axis order of PyTorch.

    Raises:
        ValueError: If the file is damaged, has another format, or holds more than a state dict of
            float32 and int64 arrays.
        OSError: If it cannot be read.

    Example:

    >>> arrays = read_state_dict("efficientnet_lite0.pth")  # doctest: +SKIP
    """
    return state_dict_of(Path(path).read_bytes())


def state_dict_of(content: bytes) -> dict[str, np.ndarray]:
    """Returns the state dict that a file with this content holds; see `read_state_dict`."""
    if content.startswith(b"PK"):
        raise ValueError("it has PyTorch's newer format, a zip archive; save it as .safetensors")
    try:
        return _arrays(io.BytesIO(content))
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{_DAMAGED}: its instructions do not fit each other") from error
    except ValueError as error:
        raise ValueError(f"{_DAMAGED}: {error!s:.200}") from error


def _arrays(file: io.BytesIO) -> dict[str, np.ndarray]:
    if (_unpickled(file), _unpickled(file)) != (_MAGIC, _PROTOCOL):
        raise ValueError("it does not start as such files do")
    _unpickled(file)  # sizes of types of the machine that wrote it
    state, keys = _unpickled(file), _unpickled(file)
    if not isinstance(state, dict) or not all(isinstance(a, _Array) for a in state.values()):
        raise ValueError("it holds something else than arrays by name")
    storages = {array.storage.key: array.storage for array in state.values()}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it has no list of its values")
    if sorted(keys) != sorted(storages):
        raise ValueError("its list of values does not fit its arrays")
    if {array.storage for array in state.values()} != set(storages.values()):
        raise ValueError("two arrays disagree about the values that they share")
    values = {key: _values(file, storages[key]) for key in keys}
    if file.read(1):
        raise ValueError("it is longer than it should be")
    return {name: _array(array, values[array.storage.key]) for name, array in state.items()}


def _unpickled(file: io.BytesIO) -> Any:
    """Runs one pickle. Values are numbers, texts, None, tuples, lists, and what is defined here."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for instruction, argument, _ in pickletools.genops(file):
        match instruction.name:
            case "PROTO":
                pass
            case "MARK":
                stack.append(_MARK)
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_LITERALS[instruction.name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                last = slice(-int(instruction.name[-1]), None)
                stack[last] = [tuple(stack[last])]
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case "EMPTY_LIST":
                stack.append([])
            case "APPENDS":
                items = _since_mark(stack)
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, name = stack.pop(), stack.pop()
                _set_items(stack[-1], [name, value])
            case "SETITEMS":
                items = _since_mark(stack)
                _set_items(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                if argument not in _NAMES:
                    raise ValueError(f"it names {argument!r:.80}, which is not allowed")
                stack.append(_Name(argument))
            case "BINPERSID":
                stack.append(_storage(*stack.pop()))
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                stack.append(_result(name, arguments))
            case "BUILD":
                stack.pop()  # attributes of the dict: versions of PyTorch's modules
            case "STOP":
                return stack.pop()
            case _:
                raise ValueError(f"it has the instruction {instruction.name}, which is not allowed")
    raise ValueError("it has no end")


def _since_mark(stack: list[Any]) -> list[Any]:
    """Takes what was put on the stack since the last mark, and the mark."""
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _set_items(target: Any, items: Sequence[Any]) -> None:
    names, values = items[::2], items[1::2]
    if type(target) is not dict or not all(isinstance(name, str) for name in names):
        raise ValueError("it has a dict whose keys are no names")
    target.update(zip(names, values, strict=True))


def _result(name: Any, arguments: Any) -> Any:
    """Returns what a function of `_NAMES` makes of its arguments."""
    if name == _Name(_DICT) and arguments == ():
        return {}
    if name != _Name(_ARRAY):
        raise ValueError("it calls what is no function")
    storage, offset, shape, strides, *_ = arguments
    if not isinstance(storage, _Storage) or not len(shape) == len(strides) <= _MOST_AXES:
        raise ValueError("it has an array without values")
    array = _Array(storage, _size(offset), tuple(map(_size, shape)), tuple(map(_size, strides)))
    steps = ((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    # Arrays may be transposed, but neither reach beyond their values nor repeat them.
    if math.prod(shape) > storage.length or offset + sum(steps) >= max(storage.length, 1):
        raise ValueError("it has an array larger than its values")
    return array


def _storage(kind: Any, dtype: Any, key: Any, _location: Any, length: Any, view: Any) -> _Storage:
    if kind != "storage" or not isinstance(key, str) or view is not None:
        raise ValueError("it refers to something else than values of arrays")
    return _Storage(key, _TYPES[dtype.text], _size(length))


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("it has a size that is no whole number of at least 0")
    return value


def _values(file: io.BytesIO, storage: _Storage) -> np.ndarray:
    dtype = np.dtype(storage.dtype)
    length = storage.length * dtype.itemsize
    count, content = file.read(8), file.read(length)
    if count != storage.length.to_bytes(8, "little") or len(content) != length:
        raise ValueError(f"the values {storage.key!r:.80} are not complete")
    return np.frombuffer(content, dtype)


def _array(array: _Array, values: np.ndarray) -> np.ndarray:
    strides = tuple(stride * values.itemsize for stride in array.strides)
    return np.lib.stride_tricks.as_strided(values[array.offset :], array.shape, strides)
