"""Image files of all common formats are decoded to what a viewer shows."""

import numpy as np
import pytest
from PIL import Image

from daso_tf import data
from daso_tf.data import decode


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.ppm", "x.unusual"])
def test_lossless_rgb_is_exact(tmp_path, rgb, name):
    path = tmp_path / name
    Image.fromarray(rgb).save(path, format="PNG" if name == "x.unusual" else None)
    image = data.read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, rgb)


def test_jpeg(tmp_path, rgb):
    smooth = np.broadcast_to(rgb[:1, :1], rgb.shape).copy()
    image = data.read_image(saved(tmp_path, Image.fromarray(smooth), "x.jpg", quality=95))
    assert np.abs(image.astype(int) - smooth).max() <= 3


def test_cmyk_jpeg(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.jpg", quality=95)
    assert np.abs(data.read_image(path).astype(int) - [255, 0, 0]).max() <= 3


def test_gray_and_black_and_white(tmp_path, rgb):
    gray = rgb[..., 0]
    expected = np.repeat(gray[..., None], 3, -1)
    np.testing.assert_array_equal(
        data.read_image(saved(tmp_path, Image.fromarray(gray), "x.png")), expected
    )
    bits = Image.fromarray(gray > 127)
    np.testing.assert_array_equal(
        data.read_image(saved(tmp_path, bits, "y.png")), np.where(expected > 127, 255, 0)
    )


@pytest.mark.parametrize("name", ["x.png", "x.tiff"])
def test_16_bit_gray_covers_the_range(tmp_path, name):
    levels = np.array([[0, 128, 257], [32768, 65407, 65535]], np.uint16)
    image = data.read_image(saved(tmp_path, Image.fromarray(levels), name))
    np.testing.assert_array_equal(image[..., 1], [[0, 0, 1], [128, 255, 255]])


def test_palette(tmp_path, rgb):
    image = Image.fromarray(rgb).quantize(8)
    np.testing.assert_array_equal(
        data.read_image(saved(tmp_path, image, "x.png")), np.asarray(image.convert("RGB"))
    )


def test_transparent_parts_are_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    image = data.read_image(saved(tmp_path, Image.fromarray(pixels), "x.png"))
    np.testing.assert_array_equal(image, [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]])
    gray = np.array([[[7, 255], [7, 0]]], np.uint8)
    image = data.read_image(saved(tmp_path, Image.fromarray(gray), "y.png"))
    np.testing.assert_array_equal(image, [[[7, 7, 7], [255, 255, 255]]])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([9, 9, 9, 0, 0, 0])
    image = data.read_image(saved(tmp_path, palette, "z.gif", transparency=1))
    np.testing.assert_array_equal(image, [[[9, 9, 9], [255, 255, 255]]])


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    path = saved(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(data.read_image(path), np.full((4, 4, 3), [255, 0, 0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, rgb, orientation):
    turned = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1),
        7: np.rot90(rgb, 2).transpose(1, 0, 2),
        8: np.rot90(rgb),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(rgb), "x.png", exif=exif)
    np.testing.assert_array_equal(data.read_image(path), turned)
    assert decode.image_sizes([path]) == ({turned.shape[:2]}, {})


def test_resizing_is_pillows(rgb):
    expected = Image.fromarray(rgb).resize((5, 7), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.resize(rgb, (7, 5)), np.asarray(expected))
    assert data.resize(rgb, (12, 9)) is rgb


def test_files_come_in_order_at_one_size(tmp_path, rgb):
    paths = [
        saved(tmp_path, Image.new("RGB", (4 + k % 3, 5), (k, 0, 0)), f"{k}.png") for k in range(40)
    ]
    images, errors = decode.read_images(paths, (5, 4))
    assert not errors
    assert images.shape == (40, 5, 4, 3)
    np.testing.assert_array_equal(images[:, 2, 2, 0], range(40))
    assert decode.image_sizes(paths) == ({(5, 4), (5, 5), (5, 6)}, {})


def test_unreadable_files_are_named(tmp_path, rgb):
    good = saved(tmp_path, Image.fromarray(rgb), "good.jpg")
    bad = {
        "truncated.jpg": good.read_bytes()[:-80],
        "cut off.png": saved(tmp_path, Image.fromarray(rgb), "good.png").read_bytes()[:70],
        "text.jpg": b"not an image",
        "empty.jpg": b"",
        "new\nline ü.png": b"\x89PNG\r\n\x1a\n",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(data.DataError, match="cannot be read as an image") as caught:
            data.read_image(tmp_path / name)
        assert repr(name)[1:-1] in str(caught.value)
    paths = [good, *(tmp_path / name for name in bad), good]
    images, errors = decode.read_images(paths, (12, 9))
    assert list(errors) == [1, 2, 3, 4, 5]
    for name, error in zip(bad, errors.values(), strict=True):
        assert repr(name)[1:-1] in str(error)
    np.testing.assert_array_equal(images[0], images[6])
    # A header does not show that the file is truncated.
    assert list(decode.image_sizes(paths)[1]) == [3, 4, 5]


def test_levels_without_a_defined_brightness_are_refused(tmp_path):
    levels = np.array([[0, 70000]], np.int32)
    with pytest.raises(data.DataError, match=r"outside 0\.\.65535"):
        data.read_image(saved(tmp_path, Image.fromarray(levels), "x.tiff"))
    with pytest.raises(data.DataError, match="floating-point"):
        data.read_image(saved(tmp_path, Image.fromarray(np.ones((2, 2), np.float32)), "y.tiff"))
