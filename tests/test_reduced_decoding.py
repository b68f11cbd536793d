"""JPEG files that are much larger than needed are decoded reduced, and look the same."""

import io

import numpy as np
import pytest
from command import arguments, completed
from PIL import Image
from sklearn.datasets import load_sample_image

from daso_tf import data
from daso_tf.data import decode, memory
from daso_tf.data.decode import EncodedImage, read_at_size
from daso_tf.run.flags_file import changes_since, write_flags_file
from daso_tf.step import feature_bank

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def photograph():
    """427 x 640 pixels of a temple, with fine structures: an odd side is not divided evenly."""
    return Image.fromarray(load_sample_image("china.jpg"))


def encoded(picture, **options):
    content = io.BytesIO()
    picture.save(content, "JPEG", **{"quality": 90, **options})
    return EncodedImage("picture.jpg", content.getvalue())


@pytest.fixture
def decoded(monkeypatch):
    """The pixels of memory that each decoding has taken."""
    taken = []

    class Recorded(memory.Budget):
        def taking(self, amount):
            taken.append(amount)
            return super().taking(amount)

    monkeypatch.setattr(decode, "_decoding", Recorded(10**9))
    return taken


def difference(file, size):
    """The mean difference from the exact pixels, in gray levels, largest of the channels."""
    exact = data.resize(data.read_image(file), size).astype(int)
    return np.abs(read_at_size(file, size) - exact).mean(axis=(0, 1)).max()


REDUCED = {(106, 160): 2, (106, 100): 2, (80, 64): 2, (53, 80): 4, (26, 40): 8, (8, 8): 8}


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"progressive": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_the_pixels_are_almost_those_of_the_whole_picture(photograph, mode, options, decoded):
    file = encoded(photograph.convert(mode), **options)
    assert difference(file, (107, 160)) == 0  # less than four times the size
    assert difference(file, (500, 40)) == 0
    for size, scale in REDUCED.items():
        decoded.clear()
        assert 0 < difference(file, size) < 1.25
        reduced = -(-427 // scale) * (640 // scale)
        # A progressive file keeps the frequencies of all pixels until the last scan.
        assert decoded == [427 * 640, 427 * 640 if options.get("progressive") else reduced]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_pictures_are_turned(photograph, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = encoded(photograph, exif=exif)
    assert 0 < difference(file, (50, 20)) < 1.25
    assert 0 < difference(file, (20, 50)) < 1.25
    # Height and width must not be taken for each other: 640 is four times 160, and 427 is not.
    upright = orientation < 5
    assert (difference(file, (100, 160)) > 0) == upright
    assert (difference(file, (160, 100)) > 0) == (not upright)


def test_a_first_scan_with_one_channel_counts_in_full(photograph, decoded):
    """Such a file is not progressive, but its channels come one after the other."""
    file = encoded(photograph)
    start = file.content.index(b"\xff\xda")
    content = bytearray(file.content)
    content[start + 4] = 1
    with pytest.raises(data.DataError):  # the rest of the scan has three
        read_at_size(EncodedImage("a.jpg", bytes(content)), (8, 8))
    assert decoded == [427 * 640]


def test_what_other_formats_have_is_exact(photograph):
    content = io.BytesIO()
    photograph.save(content, "PNG")
    assert difference(EncodedImage("picture.png", content.getvalue()), (8, 8)) == 0


def test_damage_and_limits_are_found_as_before(photograph):
    file = encoded(photograph)
    half = EncodedImage("half.jpg", file.content[: len(file.content) // 2])
    with pytest.raises(data.DataError, match="truncated"):
        read_at_size(half, (8, 8))
    with pytest.raises(data.DataError, match=r"640 x 427 pixels.* max_megapixels allows 0\.2"):
        read_at_size(file, (8, 8), max_megapixels=0.2)


def test_a_feature_bank_of_other_pixels_is_not_used(photograph, monkeypatch):
    files = data.ImageFiles([encoded(photograph)], [0], (8, 8))
    arrays = data.Images(files.take(np.arange(1)), [0])
    before = [feature_bank._pictures_digest(part) for part in (files, arrays)]
    monkeypatch.setattr(decode, "VERSION", 3)
    now = [feature_bank._pictures_digest(part) for part in (files, arrays)]
    assert before[0] != now[0] and before[1] == now[1]


@pytest.mark.parametrize(("dataset", "changed"), [("image_folder", True), ("digits", False)])
def test_a_run_with_other_pixels_is_not_continued_silently(tmp_path, dataset, changed):
    settings = completed(*arguments(dataset=dataset, data_dir=tmp_path))
    path = tmp_path / "flags.cfg"
    write_flags_file(path, settings)
    assert changes_since(path, settings).rules == []
    path.write_text(path.read_text().replace("# Rules 3", "# Rules 2"))
    rules = changes_since(path, settings).rules
    assert ["decoded" in rule for rule in rules] == [True] * changed
