"""Copies among images: identical pixels and near copies, in every part; how they are left out."""

import csv
import sys

import numpy as np
import pytest
from PIL import Image

from daso_tf import data
from daso_tf.commands import describe, terminal
from daso_tf.data import copies as module
from daso_tf.data.copies import Copy, find_copies, perceptual_hash
from daso_tf.data.pools import ArrayPool


def photograph(seed, side=64):
    """A picture with structure at several scales, unlike those of other seeds."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            ),
            float,
        )
        for n in (4, 8, 16)
    ]
    return Image.fromarray((np.sum(layers, axis=0) / 3).astype(np.uint8))


def save(picture, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Six labeled, seven unlabeled and four test images; five of the unlabeled are copies."""
    for k, place in enumerate(("cat/0", "cat/1", "cat/2", "dog/0", "dog/1", "dog/2")):
        save(photograph(k), tmp_path / "train" / f"{place}.png")
    for k, place in enumerate(("cat/0", "cat/1", "dog/0", "dog/1")):
        save(photograph(10 + k), tmp_path / "test" / f"{place}.png")
    unlabeled = tmp_path / "unlabeled"
    save(photograph(20), unlabeled / "0.png")
    save(photograph(21), unlabeled / "1.png")
    save(photograph(0), unlabeled / "2.bmp")  # of a labeled image
    save(photograph(12), unlabeled / "3.jpg", quality=70)  # of a test image
    save(photograph(11).resize((50, 40)), unlabeled / "4.png")  # of a test image
    save(photograph(20), unlabeled / "5.tif")  # of an unlabeled image
    return tmp_path


def found(folder, near=True, **options):
    pools = data.loading.select("image_folder", folder, data.loading.LongTail(), 0, **options)
    return {
        (copy.name.removeprefix(f"{folder}/"), copy.original_name.removeprefix(f"{folder}/")): copy
        for copy in pools.copies(near)
    }


NEAR = {
    ("unlabeled/3.jpg", "test/dog/0.png"),
    ("unlabeled/4.png", "test/cat/1.png"),
}
IDENTICAL = {
    ("unlabeled/2.bmp", "train/cat/0.png"),
    ("unlabeled/5.tif", "unlabeled/0.png"),
}


def test_identical_and_near_copies_are_found_in_every_part(folder):
    copies = found(folder)
    assert set(copies) == NEAR | IDENTICAL
    assert {pair for pair, copy in copies.items() if copy.identical} == IDENTICAL
    copy = copies["unlabeled/2.bmp", "train/cat/0.png"]
    assert (copy.part, copy.place, copy.label) == ("unlabeled", 2, -1)
    assert (copy.original_part, copy.original_label) == ("labeled", 0)
    assert set(found(folder, near=False)) == IDENTICAL


def test_a_test_image_is_the_original_of_all_others(folder):
    save(photograph(13), folder / "train" / "dog" / "leak.png")
    save(photograph(13), folder / "validation" / "cat" / "leak.png")
    copies = found(folder, near=False)
    leaks = {(f"{place}/leak.png", "test/dog/1.png") for place in ("train/dog", "validation/cat")}
    assert set(copies) == IDENTICAL | leaks
    # Those of other parts come first.
    assert [copy.part == copy.original_part for copy in copies.values()] == [False] * 3 + [True]


def test_empty_and_unreadable_images_are_no_near_copies(folder):
    for name, color in (("a", "white"), ("b", "black"), ("c", "red")):
        save(Image.new("RGB", (64, 64), color), folder / "unlabeled" / f"{name}.png")
    (folder / "unlabeled" / "d.png").write_bytes(b"x")
    (folder / "unlabeled" / "e.png").write_bytes(b"x")
    assert set(found(folder)) == NEAR | IDENTICAL


@pytest.mark.parametrize("block", [1, 300, 2**25])
def test_the_first_near_image_is_that_of_comparing_all_pairs(block, monkeypatch):
    rng = np.random.default_rng(0)
    centers = rng.integers(0, 2, (7, 64))
    bits = centers[rng.integers(0, 7, 60)]
    bits = np.where(rng.random(bits.shape) < 0.03, 1 - bits, bits)
    bits[40:42] = 0  # empty images, which resemble none
    expected = {}
    for k, row in enumerate(bits):
        near = np.flatnonzero((bits[:k] != row).sum(axis=1) <= 4)
        if len(near) and row.any():
            expected[k] = near[0]
    assert 10 < len(expected) < 50
    images = np.zeros((60, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(60)
    pool = ArrayPool(images, np.zeros(60, np.int32))
    monkeypatch.setattr(module, "_BLOCK", block)
    copies = find_copies(
        {"labeled": (pool, np.arange(60))}, lambda picture: bits[picture.getpixel((0, 0))[0]]
    )
    assert {copy.place: copy.original_name for copy in copies} == {
        k: f"image {original}" for k, original in expected.items()
    }


def test_no_images():
    assert find_copies({}, perceptual_hash()) == []


def test_images_in_memory():
    images = np.stack([np.asarray(photograph(k, 16)) for k in (0, 1, 0, 2)])
    pool = ArrayPool(images, np.array([0, 1, 1, 0]))
    parts = {"labeled": (pool, np.array([0, 1])), "unlabeled": (pool, np.array([3, 2]))}
    expected = Copy("unlabeled", 1, "image 2", 1, "labeled", "image 0", 0, identical=True)
    assert find_copies(parts, perceptual_hash()) == [expected]


def test_copies_are_left_out_of_the_unlabeled_part(folder, caplog):
    loaded = data.load("image_folder", data_dir=folder, resolution=64, drop_copies=True)
    assert (len(loaded.labeled), len(loaded.unlabeled), len(loaded.test)) == (6, 2, 4)
    np.testing.assert_array_equal(loaded.unlabeled.images[1], np.asarray(photograph(21)))
    assert "4 of 6 unlabeled images are copies and are left out" in caplog.text


def test_the_command_lists_copies_and_leaves_them_out(folder, capsys):
    given = ["--dataset=image_folder", f"--data_dir={folder}", f"--picture={folder}/x.png"]
    save(photograph(0), folder / "train" / "dog" / "same.png")
    assert terminal.call(describe.COMMAND, given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["all", "7", "6", "-", "4"] in [line.split() for line in lines]
    assert "5 images are copies of others: 3 identical, 2 near." in lines
    assert "Copies of test images: 2 unlabeled." in lines
    assert (
        f"  labeled '{folder}/train/dog/same.png' (dog) = labeled '{folder}/train/cat/0.png' (cat)"
        in lines
    )
    assert "--drop_copies leaves out the unlabeled ones (4)." in lines
    with open(folder / "x_copies.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 6
    assert [
        "identical",
        "labeled",
        f"{folder}/train/dog/same.png",
        "dog",
        "labeled",
        f"{folder}/train/cat/0.png",
        "cat",
    ] in rows
    assert terminal.call(describe.COMMAND, [*given, "--drop_copies"]) == 0
    output = capsys.readouterr().out
    assert ["all", "7", "2", "-", "4"] in [line.split() for line in output.splitlines()]
    assert "--drop_copies" not in output


def test_number_and_sizes_of_unlabeled_images_are_shown(folder):
    selection = data.loading.select("image_folder", folder, data.loading.LongTail(), 0)
    loaded = selection.read(0, 8, None, 0)
    rows = [line.split("  ") for line in describe.table(loaded, selection.sizes).splitlines()]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    assert rows[-2] == ["smallest", "64 x 64", "50 x 40", "-", "64 x 64"]
    assert rows[-1] == ["largest", "64 x 64", "64 x 64", "-", "64 x 64"]
    legend = describe.figure(loaded, selection.sizes).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == [
        "labeled: 6\n64 x 64",
        "unlabeled: 6\n50 x 40 to\n64 x 64",
        "test: 4\n64 x 64",
    ]


def test_a_missing_extra_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    given = ["--dataset=image_folder", f"--data_dir={folder}", f"--picture={folder}/x.png"]
    assert terminal.call(describe.COMMAND, given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 images are copies of others: 2 identical, 0 near." in lines
    (line,) = [line for line in lines if "imagehash" in line]
    assert line.startswith("Near copies were not searched: ")
    assert line.endswith('pip install "daso_tf[copies]"')
    assert terminal.call(describe.COMMAND, [*given, "--drop_copies"]) == 2
    assert 'pip install "daso_tf[copies]"' in capsys.readouterr().err
    with pytest.raises(data.DataError, match=r"pip install .daso_tf\[copies\]"):
        data.load("image_folder", data_dir=folder, drop_copies=True)
