"""State dicts in PyTorch's older file format, also damaged ones, written without PyTorch."""

import struct

import numpy as np

_STORAGES = {"<f4": "FloatStorage", "<i8": "LongStorage"}


def names(*texts):
    """The instructions that put texts on the stack."""
    encoded = [text.encode() for text in texts]
    return b"".join(b"X" + struct.pack("<I", len(text)) + text for text in encoded)


def _numbers(values):
    """The instructions that put a tuple on the stack."""
    return b"(" + b"".join(map(_number, values)) + b"t"


def _number(value):
    return names(value) if isinstance(value, str) else b"J" + struct.pack("<i", value)


def _array(key, array, change):
    dtype = array.dtype.newbyteorder("<").str
    is_transposed = array.ndim == 2 and not array.flags.c_contiguous
    of_file = {
        "key": key,
        "count": array.size,
        "offset": 0,
        "shape": array.shape,
        "strides": tuple(stride // array.itemsize for stride in array.strides),
        **change,
    }
    storage = names("storage") + b"ctorch\n" + _STORAGES[dtype].encode() + b"\n"
    storage = b"(" + storage + names(of_file["key"], "cpu") + _number(of_file["count"]) + b"NtQ"
    arguments = b"(" + storage + _number(of_file["offset"])
    arguments += _numbers(of_file["shape"]) + _numbers(of_file["strides"])
    program = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"\x89}tR"
    return program, (array.T if is_transposed else array).tobytes()


def state_dict_file(arrays, pickles=None, changes=None):
    """Returns the content of a file, as `torch.save(state_dict, path)` wrote it before 1.6.

    Args:
        arrays: Contiguous arrays, or transposed ones, by name.
        pickles: Other pickles than the right ones, by their place: magic number, version, sizes of
            types, state dict, keys of the values.
        changes: What the state dict says of an array instead of the truth, by name: "key", "count",
            "offset", "shape", "strides".
    """
    keys = [str(number) for number in range(len(arrays))]
    state, values = b"ccollections\nOrderedDict\n)R(", b""
    for key, (name, array) in zip(keys, arrays.items(), strict=True):
        program, content = _array(key, array, (changes or {}).get(name, {}))
        state += names(name) + program
        values += struct.pack("<q", array.size) + content
    programs = [
        b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19",
        b"M\xe9\x03",
        b"}(" + names("little_endian") + b"\x88u",
        state + b"u}" + names("_metadata") + b"}sb",
        b"](" + names(*keys) + b"e",
    ]
    whole = [b"\x80\x02" + program + b"." for program in programs]
    return b"".join((pickles or {}).get(place, p) for place, p in enumerate(whole)) + values


def random_arrays(shapes, seed):
    """Returns random weights by name, such as those of a PyTorch network, for inference.

    Args:
        shapes: Shape of every array, by name. Variances are around 1.
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            ends = {"weight": (0.5, 1.0), "running_var": (0.8, 1.2)}
            values = random.uniform(*ends.get(name.split(".")[-1], (-0.2, 0.2)), shape)
        arrays[name] = values.astype(np.float32)
    return arrays
