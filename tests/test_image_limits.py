"""Large images: refused by their header, decoded in little memory, a bounded number at a time."""

import re
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image
from test_data_hostile_input import png_of_size

from daso_tf import data
from daso_tf.data import decode, memory
from daso_tf.data.loading import select
from daso_tf.data.long_tail import LongTail


def saved(path, size, mode="RGB", kind=None):
    Image.new(mode, size).save(path, kind)
    return path


def test_a_picture_beyond_the_limit_is_refused_by_its_header(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_of_size(20_000, 13_000))
    with pytest.raises(data.DataError) as refusal:
        data.read_image(path)
    text = "it has 20000 x 13000 pixels, 260 megapixels; max_megapixels allows 250"
    assert text in str(refusal.value) and repr(str(path)) in str(refusal.value)
    # With a higher limit, decoding starts, and finds that the pixels are missing.
    with pytest.raises(data.DataError, match=r"truncated|broken|incorrect"):
        data.read_image(path, max_megapixels=0.0001 + 260)


def test_the_largest_cameras_are_accepted_without_a_warning(tmp_path):
    """Pillow itself warns of 90 megapixels and refuses 179."""
    path = tmp_path / "phone.png"
    path.write_bytes(png_of_size(14_142, 14_142))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode.image_sizes([path]) == ({(14_142, 14_142)}, {})


def test_the_limit_counts_for_every_reader(tmp_path):
    small, large = saved(tmp_path / "a.png", (10, 10)), saved(tmp_path / "b.png", (40, 30))
    files = [small, large]
    limit = {"max_megapixels": 0.001}
    assert list(decode.image_sizes(files, **limit)[1]) == [1]
    assert list(decode.read_images(files, (8, 8), **limit)[1]) == [1]
    streamed = data.ImageFiles(files, [0, 1], (8, 8), data.errors.UnreadableFiles(1, ""), **limit)
    assert streamed.take(np.array([0, 1])).shape == (2, 8, 8, 3)
    assert "0.0012 megapixels" in streamed.unreadable.messages[0]


def test_load_leaves_out_what_is_too_large(tmp_path):
    for folder, count in [("train/cat", 3), ("train/dog", 3), ("test/cat", 1), ("test/dog", 1)]:
        (tmp_path / folder).mkdir(parents=True)
        for i in range(count):
            saved(tmp_path / folder / f"{i}.png", (10, 10))
    (tmp_path / "unlabeled").mkdir()
    saved(tmp_path / "unlabeled" / "0.png", (10, 10))
    saved(tmp_path / "train" / "cat" / "3.png", (100, 20))
    for stream in (False, True):
        loaded = data.load(
            "image_folder", data_dir=tmp_path, resolution=8, stream=stream, max_megapixels=0.001
        )
        assert len(loaded.labeled) == 6
    with pytest.raises(data.DataError, match=re.escape("train/cat/3.png")):
        data.load(
            "image_folder", data_dir=tmp_path, resolution=8, max_megapixels=0.001, max_bad_files=0
        )
    with pytest.raises(data.DataError, match="max_megapixels=0"):
        data.load("image_folder", data_dir=tmp_path, max_megapixels=0)


def test_images_that_are_too_large_are_no_copies(tmp_path):
    for folder, number in [("train/cat", 0), ("train/dog", 1), ("unlabeled", 0)]:
        (tmp_path / folder).mkdir(parents=True)
        saved(tmp_path / folder / f"{number}.png", (40, 30 + number))

    def copies(max_megapixels):
        sizes, more = LongTail(), {"max_megapixels": max_megapixels}
        return len(select("image_folder", tmp_path, sizes, 0, **more).copies(near=False))

    assert copies(0.0012) == 1
    assert copies(0.0011) == 0


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_every_level_of_16_bit_gray_is_rounded(tmp_path, kind):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / f"a.{kind}")
    expected = np.round(levels / 257).astype(np.uint8)
    image = data.read_image(tmp_path / f"a.{kind}")
    np.testing.assert_array_equal(image, np.repeat(expected[..., np.newaxis], 3, axis=-1))


def test_16_bit_gray_takes_no_64_bit_numbers(tmp_path, monkeypatch):
    side = 1000
    path = saved(tmp_path / "a.png", (side, side), "I;16")
    monkeypatch.setattr(decode, "_BAND_PIXELS", 10 * side)
    tracemalloc.start()
    try:
        decode.read_at_size(path, (8, 8))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # NumPy's and Python's memory: the gray levels of 8 bits, and a few rows. It was 25 bytes.
    assert peak < 3 * side * side


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "tiff", "webp"])
def test_reading_at_a_size_equals_reading_and_resizing(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(pixels).save(path)
    for size in ((20, 30), (8, 9), (50, 40)):
        np.testing.assert_array_equal(
            decode.read_at_size(path, size), data.resize(data.read_image(path), size)
        )


def test_a_budget_bounds_what_threads_use_together():
    budget, used, most, lock = memory.Budget(10), [0], [0], threading.Lock()

    def work(amount):
        for _ in range(50):
            with budget.taking(amount):
                with lock:
                    used[0] += amount
                    most[0] = max(most[0], used[0])
                with lock:
                    used[0] -= amount

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (3, 4, 5, 6, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most[0] <= 10 and used == [0]


def test_more_than_the_budget_is_taken_alone_and_errors_give_it_free():
    budget = memory.Budget(10)
    with pytest.raises(KeyError), budget.taking(100):
        raise KeyError
    with budget.taking(100):
        entered = threading.Event()

        def other():
            with budget.taking(1):
                entered.set()

        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.is_set()
    thread.join()
    assert entered.is_set()


def test_pictures_are_decoded_within_the_budget(tmp_path, monkeypatch):
    taken = []

    class Recorded(memory.Budget):
        def taking(self, amount):
            taken.append(amount)
            return super().taking(amount)

    monkeypatch.setattr(decode, "_decoding", Recorded(1000))
    files = [saved(tmp_path / f"{i}.png", (30, 20)) for i in range(3)]
    decode.read_images(files, (8, 8))
    data.ImageFiles(files, [0, 0, 0], (8, 8)).take(np.arange(3))
    decode.image_sizes(files)  # decodes nothing
    assert taken == [600] * 6
