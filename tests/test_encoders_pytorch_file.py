"""Files of PyTorch are read without running what is in them, whatever that is."""

import os
import pickle
import struct

import numpy as np
import pytest
from state_dicts import names, state_dict_file

from daso_tf.encoders.pytorch_file import read_state_dict, state_dict_of

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "conv.weight": RANDOM.normal(size=(4, 3, 2, 2)).astype(np.float32),
    "transposed": RANDOM.normal(size=(3, 5)).astype(np.float32).T,
    "count": np.array(7),
    "none": np.zeros(0, np.float32),
}


def refused(content, message="no state dict of PyTorch, or damaged"):
    with pytest.raises(ValueError, match=message) as error:
        state_dict_of(content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_arrays_are_read(tmp_path):
    path = tmp_path / "state.pth"
    path.write_bytes(state_dict_file(ARRAYS))
    found = read_state_dict(path)
    assert list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


FOUR = np.arange(4, dtype=np.float32)


def test_a_file_that_is_cut_anywhere_is_refused():
    whole = state_dict_file({"x": FOUR, "none": FOUR[:0]})
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            state_dict_of(whole[:length])


def test_a_changed_byte_is_refused_or_changes_a_value_only():
    whole = state_dict_file({"x": FOUR})
    for place in range(len(whole)):
        for byte in {0, 0x28, 0xFF, whole[place] ^ 1} - {whole[place]}:
            changed = bytearray(whole)
            changed[place] = byte
            try:
                found = state_dict_of(bytes(changed))
            except ValueError:
                continue
            assert all(isinstance(array, np.ndarray) for array in found.values())
            assert sum(array.size for array in found.values()) <= 4


class Makes:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", range(5))
def test_no_pickle_of_the_file_runs_code(tmp_path, protocol, place):
    folder = tmp_path / "made"
    hostile = pickle.dumps({"conv.weight": Makes(folder)}, protocol)
    refused(state_dict_file(ARRAYS, {place: hostile}))
    assert not folder.exists()
    pickle.loads(hostile)
    assert folder.exists()  # Python's own reader runs it


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "os system", "torch._utils _rebuild_parameter", "torch HalfStorage"],
)
def test_other_names_are_refused(name):
    module, function = name.split()
    program = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b")R."
    refused(state_dict_file(ARRAYS, {3: program}), f"names '{name}', which is not")


@pytest.mark.parametrize("instruction", [b"0", b"2", b"i", b"o", b"\x81", b"\x82", b"\x93", b"P"])
def test_other_instructions_are_refused(instruction):
    program = b"\x80\x02}" + instruction + b"os\nsystem\n."
    refused(state_dict_file(ARRAYS, {3: program}))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ({"shape": (5,)}, "larger than its values"),
        ({"offset": 1}, "larger than its values"),
        ({"strides": (2,)}, "larger than its values"),
        ({"shape": (2, 3), "strides": (0, 0)}, "larger than its values"),
        ({"shape": (2**31 - 1,) * 8, "strides": (0,) * 8}, "larger than its values"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "without values"),
        ({"shape": (2, 2)}, "without values"),
        ({"shape": (-4,)}, "no whole number of at least 0"),
        ({"offset": -1}, "no whole number of at least 0"),
        ({"strides": (-1,)}, "no whole number of at least 0"),
        ({"shape": ("4",)}, "no whole number of at least 0"),
        ({"count": 5}, "'0' are not complete"),
        ({"count": 2**31 - 1}, "'0' are not complete"),
        ({"count": 3, "shape": (3,)}, "'0' are not complete"),
        ({"key": "1"}, "list of values does not fit"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(array, message):
    refused(state_dict_file({"x": FOUR}, changes={"x": array}), message)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02K\x01.", "something else than arrays"),
        (b"\x80\x02}" + names("x") + b"K\x01s.", "something else than arrays"),
        (b"\x80\x02})K\x01s.", "keys are no names"),
        (b"\x80\x02}(" + names("x") + b"u.", "zip"),
        (b"\x80\x02.", "do not fit each other"),
        (b"\x80\x02K\x01)R.", "calls what is no function"),
        (b"\x80\x02h\x05.", "do not fit each other"),
        (b"\x80\x02)Q.", "do not fit each other"),
        (b"\x80\x02}t.", "do not fit each other"),
        (b"\x80\x02X\xff\xff\xff\xff.", "expected 4294967295 bytes"),
    ],
    ids=repr,
)
def test_programs_that_make_no_sense_are_refused(program, message):
    refused(state_dict_file(ARRAYS, {3: program}), message)


def test_nesting_that_would_take_forever_to_compare_is_refused_at_once():
    """Each level holds the one below it twice, so a hash of the whole takes 2 ** 200 steps."""
    nested = b")" + b"".join(b"q\x01h\x01h\x01\x86\x86" for _ in range(200))
    for place in (0, 1, 3, 4):  # what place 2 holds is not used
        refused(state_dict_file(ARRAYS, {place: b"\x80\x02" + nested + b"."}))
    keys = b"\x80\x02](" + nested + b"e."
    refused(state_dict_file(ARRAYS, {4: keys}), "no list of its values")


def test_values_that_nobody_asked_for_are_refused():
    whole = state_dict_file({"x": FOUR})
    refused(whole + b"\0", "longer than it should be")
    refused(whole + struct.pack("<q4f", 4, *FOUR), "longer than it should be")


def test_the_newer_format_is_named():
    refused(b"PK\x03\x04" + bytes(100), r"newer format, a zip archive; .*\.safetensors")
