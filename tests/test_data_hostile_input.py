"""Broken, hostile and odd files are loaded correctly, or refused with an error that names them."""

import io
import itertools
import os
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data_semi_aves import LISTS, list_lines, write_tree

from daso_tf import data
from daso_tf.data.sources import open_source


def encoded(kind, size=(8, 8)):
    """A picture of random pixels, as the bytes of a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def png_of_size(width, height, *more_chunks):
    """A PNG file with this size in its header and too few pixels."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    chunks = [chunk(b"IHDR", header), *itertools.starmap(chunk, more_chunks), pixels]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


JPEG, PNG = encoded("JPEG"), encoded("PNG")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes of 3 training images, 2 test images each, and 3 unlabeled images."""
    root = tmp_path_factory.mktemp("pictures")
    for folder, count in [("train/cat", 3), ("train/dog", 3), ("test/cat", 2), ("test/dog", 2)]:
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i}.jpg").write_bytes(JPEG)
    (root / "unlabeled").mkdir()
    for i in range(3):
        (root / "unlabeled" / f"{i}.png").write_bytes(PNG)
    return root


def load(root, max_bad_files=0):
    return data.load("image_folder", data_dir=root, resolution=8, max_bad_files=max_bad_files)


@pytest.fixture(params=["train/cat/bad.jpg", "test/dog/bad.jpg", "unlabeled/deep/bad.jpg"])
def place(request, pictures):
    """A path for one more file, which is removed after the test."""
    path = pictures / request.param
    path.parent.mkdir(exist_ok=True)
    yield path
    if os.path.lexists(path):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    if path.parent.name == "deep":
        path.parent.rmdir()


BROKEN = {
    "truncated JPEG": JPEG[: len(JPEG) // 2],
    "JPEG header alone": JPEG[:20],
    "truncated PNG": PNG[:-40],
    "empty": b"",
    "text": b"This is not a picture.\n",
    "web page": b"<!DOCTYPE html><title>404 Not Found</title>",
    "zeros": bytes(1000),
    "900 million pixels": png_of_size(30_000, 30_000),
    "no pixels": png_of_size(0, 8),
    "more pixels than a PNG can have": png_of_size(2**32 - 1, 2**32 - 1),
}


def check_named_or_left_out(pictures, place):
    """Some training images may be left out if that is allowed; test images may not."""
    with pytest.raises(data.DataError, match=re.escape(repr(str(place)))):
        load(pictures)
    if "test" in place.relative_to(pictures).parts:
        with pytest.raises(data.DataError, match=re.escape(repr(str(place)))):
            load(pictures, max_bad_files=9)
    else:
        loaded = load(pictures, max_bad_files=1)
        assert (len(loaded.labeled), len(loaded.unlabeled)) == (6, 3)
        for part in (loaded.labeled, loaded.unlabeled):
            assert len(np.unique(part.images, axis=0)) == 1  # the readable ones are identical


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_or_left_out(pictures, place, content):
    place.write_bytes(content)
    check_named_or_left_out(pictures, place)


def loop(path):
    """Two links that lead to each other."""
    other = path.with_name(".other")
    path.symlink_to(other.name)
    other.symlink_to(path.name)


BROKEN_LINKS = {"dangling": lambda path: path.symlink_to("nowhere.jpg"), "loop": loop}


@pytest.mark.parametrize("link", BROKEN_LINKS.values(), ids=BROKEN_LINKS)
def test_a_link_that_leads_nowhere_is_named_or_left_out(pictures, place, link):
    link(place)
    try:
        check_named_or_left_out(pictures, place)
    finally:
        place.with_name(".other").unlink(missing_ok=True)


ENDLESS = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero")}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_refused(pictures, place, make):
    make(place)
    with pytest.raises(data.DataError, match=re.escape(f"{str(place)!r} is not a file but a pipe")):
        load(pictures)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named_or_left_out(pictures, place):
    place.write_bytes(JPEG)
    place.chmod(0)
    check_named_or_left_out(pictures, place)


def test_a_folder_with_the_name_of_a_picture(pictures, place):
    place.mkdir()
    if "unlabeled" in place.parts:  # folders in it may have any name
        assert len(load(pictures).unlabeled) == 3
    else:
        with pytest.raises(data.DataError, match=re.escape(f"{str(place)!r} is a folder")):
            load(pictures)


ODD_NAMES = [
    "new\nline.jpg",
    "\u732b \u202e.jpg",
    "-rf *.jpg",
    "%s{0}.jpg",
    b"\xff\xfe.jpg",
    "a.dat",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_read(pictures, name):
    path = pictures / "test" / "dog" / os.fsdecode(name)
    path.write_bytes(JPEG)
    try:
        assert len(load(pictures).test) == 5
        path.write_bytes(b"text")
        with pytest.raises(data.DataError) as refusal:
            load(pictures)
        assert repr(str(path)) in str(refusal.value)
        str(refusal.value).encode()  # it can be printed
    finally:
        path.unlink()


@pytest.mark.parametrize("part", ["unlabeled", "validation"])
def test_a_broken_link_to_a_part_is_refused(pictures, tmp_path, part):
    for folder in ("train", "test"):
        (tmp_path / folder).symlink_to(pictures / folder)
    (tmp_path / part).symlink_to("not mounted")
    with pytest.raises(data.DataError, match=f"{part}' cannot be listed"):
        load(tmp_path)


def test_class_names_that_are_no_text_are_refused(pictures, tmp_path):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cat").symlink_to(pictures / folder / "cat")
        (tmp_path / folder / os.fsdecode(b"d\xf8g")).symlink_to(pictures / folder / "dog")
    with pytest.raises(
        data.DataError, match=r"name of the class folder .*d\\udcf8g' is not UTF-8"
    ) as refusal:
        load(tmp_path)
    str(refusal.value).encode()


def mutations(original):
    """Strategy: the bytes with some of them replaced, possibly cut off, possibly repeated."""
    place = st.integers(0, len(original) - 1)
    edits = st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)

    def apply(edits, stop, doubled):
        changed = bytearray(original)
        for at, value in edits:
            changed[at] = value
        return bytes(changed[:stop]) * (1 + doubled)

    lengths = st.one_of(st.just(len(original)), place)
    return st.builds(apply, edits, lengths, st.booleans())


@settings(max_examples=80, derandomize=True, deadline=None)
@given(st.one_of(mutations(JPEG), mutations(PNG), mutations(encoded("GIF"))))
@example(JPEG)
def test_any_mutation_of_a_picture_is_read_or_named(pictures, content):
    path = pictures / "test" / "cat" / "mutated.jpg"
    path.write_bytes(content)
    try:
        assert load(pictures).test.images.shape == (5, 8, 8, 3)
    except data.DataError as error:
        assert repr(str(path)) in str(error)
        assert content != JPEG
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    root = tmp_path_factory.mktemp("birds")
    write_tree(root)
    return root


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(LISTS)), st.data())
def test_any_mutation_of_a_list_is_read_or_named(birds, name, drawn):
    original = "".join(list_lines(name)).encode()
    path = birds / f"{name}.txt"
    path.write_bytes(drawn.draw(mutations(original)))
    labeled = "l_train_val" if name == "l_train_val" else "l_train"
    try:
        source = open_source("semi_aves", birds, labeled=labeled, unlabeled="in+out")
        assert all(map(os.path.isfile, source.train.files))
    except data.DataError as error:
        # If a changed list repeats an image, the error can be about the other list.
        assert re.search(rf"\b{name}\b", str(error))
    finally:
        path.write_bytes(original)
