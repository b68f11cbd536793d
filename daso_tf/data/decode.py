"""Decodes image files of all common formats to uint8 RGB arrays, with Pillow."""

import contextlib
import dataclasses
import io
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import tqdm
from PIL import Image

from daso_tf.data.errors import DataError
from daso_tf.data.formats import Picture, open_picture
from daso_tf.data.memory import Budget, empty_images, machine_memory

# How Pillow undoes an EXIF orientation. Those from 5 on swap height and width.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The largest cameras and phones make pictures of 200 megapixels.
MAX_MEGAPIXELS = 250.0
# Pillow's pixel has 4 bytes; the copy with another orientation or mode and the array come on top.
_BYTES_PER_PIXEL = 16
# All threads together decode in an eighth of the memory, or one picture at a time.
_decoding = Budget(machine_memory() // 8 // _BYTES_PER_PIXEL)
_BAND_PIXELS = 2**20  # pixels of 16 bits that are scaled at a time
# `read_at_size` leaves at least this many times the asked width and height to the resizing.
_LEAST_REDUCED = 2
# The version of the pixels that `read_at_size` returns; before 2, it decoded JPEG files in full.
VERSION = 2


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The content of an image file that is not on disk.

    Args:
        name: A name for messages.
        content: The bytes of the file.
    """

    name: str
    content: bytes


ImageFile = str | os.PathLike[str] | EncodedImage


def read_image(file: ImageFile, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Reads one image file, the way a viewer shows it.

    The EXIF orientation is applied; other metadata, and broken ones, do not matter. Gray, palette
    and CMYK images are converted to RGB. Transparent parts are shown on white. 16-bit gray is
    scaled from 0..65535 to 0..255, or from the bits that the file says are significant. Only the
    first frame of an animation is read.

    Args:
        file: Path of a JPEG, PNG, BMP, GIF, TIFF, WebP, PPM, JPEG 2000 or AVIF file, or its content
            as `daso_tf.data.decode.EncodedImage`.
        max_megapixels: Largest number of pixels in millions. The header of the file has it, so a
            larger image is refused before it is decoded.

    Returns:
        uint8 array of shape (height, width, 3), RGB in 0..255.

    Raises:
        DataError: If the file cannot be read as an image, or is too large.

    Example:

    >>> import os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "red.png")
    ...     Image.new("RGB", (20, 10), "red").save(path)
    ...     image = daso_tf.data.read_image(path)
    >>> image.shape, image[0, 0].tolist()
    ((10, 20, 3), [255, 0, 0])
    """
    with _opened(file, max_megapixels) as picture, _decoding.taking(_decoded_pixels(picture)):
        return np.asarray(_turned(_to_rgb(picture), picture))


def read_at_size(
    file: ImageFile, size: tuple[int, int], max_megapixels: float = MAX_MEGAPIXELS
) -> np.ndarray:
    """Reads one image file like `read_image` and resizes it like `resize`, in less time and memory.

    A JPEG file of at least four times the size is decoded at a half, a fourth or an eighth of its
    size, to at least twice `size`. JPEG's blocks of 8 x 8 pixels are frequencies, so this leaves
    out the high ones, which the resizing would remove. The gray levels of photographs then differ
    by about 1 of 255 at most, on average. All other files are decoded in full.

    Args:
        file: See `read_image`.
        size: Height and width in pixels.
        max_megapixels: See `read_image`; the pixels of the file count.

    Returns:
        uint8 array of shape `(*size, 3)`.

    Raises:
        DataError: See `read_image`.
    """
    with _opened(file, max_megapixels) as picture:
        turned_size = size[::-1] if picture.orientation >= 5 else size
        box = _reduce(picture, turned_size)
        with _decoding.taking(_decoded_pixels(picture)):
            image = _to_rgb(picture)
            if box is None:
                return np.asarray(_resized(_turned(image, picture), size))
            return np.asarray(_turned(_resized(image, turned_size, box), picture))


def read_images(
    files: Sequence[ImageFile], size: tuple[int, int], max_megapixels: float = MAX_MEGAPIXELS
) -> tuple[np.ndarray, dict[int, DataError]]:
    """Reads image files in parallel and resizes them to one size.

    Args:
        files: N files.
        size: Height and width in pixels; see `resize`.
        max_megapixels: See `read_image`.

    Returns:
        A uint8 array of shape (N, height, width, 3), and a dictionary with the position and the
        error of each file that cannot be read. Their places in the array have arbitrary content.
    """
    images = empty_images(len(files), size)

    def read(index: int) -> None:
        images[index] = read_at_size(files[index], size, max_megapixels)

    return images, _for_each(read, len(files), "Reading images")


def image_sizes(
    files: Sequence[ImageFile], max_megapixels: float = MAX_MEGAPIXELS
) -> tuple[set[tuple[int, int]], dict[int, DataError]]:
    """Reads the sizes of image files in parallel, from their headers.

    Args:
        files: N files.
        max_megapixels: See `read_image`.

    Returns:
        The set of sizes (height, width), and a dictionary with the position and the error of each
        file that is not an image or is too large.
    """
    sizes: set[tuple[int, int]] = set()

    def look(index: int) -> None:
        with _opened(files[index], max_megapixels) as picture:
            width, height = picture.image.size
            sizes.add((width, height) if picture.orientation >= 5 else (height, width))

    return sizes, _for_each(look, len(files), "Checking images")


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image with antialiased bilinear interpolation.

    The aspect ratio is not kept.

    Args:
        image: uint8 array of shape (height, width, 3).
        size: New height and width in pixels.

    Returns:
        uint8 array of shape `(*size, 3)`; `image` itself if it has this size.

    Example:

    >>> daso_tf.data.resize(np.zeros((10, 20, 3), np.uint8), (8, 8)).shape
    (8, 8, 3)
    """
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(_resized(Image.fromarray(image), size))


_Box = tuple[float, float, float, float]


def _resized(image: Image.Image, size: tuple[int, int], box: _Box | None = None) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR, box)


def _turned(image: Image.Image, picture: Picture) -> Image.Image:
    turn = _TURNS.get(picture.orientation)
    return image if turn is None else image.transpose(turn)


def _reduce(picture: Picture, size: tuple[int, int]) -> _Box | None:
    """Lets the decoder reduce a picture that is much larger than needed, if it can.

    Args:
        picture: A picture that is not decoded yet.
        size: The height and width that are needed, before it is turned.

    Returns:
        The part of the reduced picture that the pixels of the file cover: its sides are rounded up.
        None if it is decoded in full.
    """
    before, (height, width) = picture.image.size, size
    drafted = picture.image.draft(None, (_LEAST_REDUCED * width, _LEAST_REDUCED * height))
    return drafted[1] if drafted and picture.image.size != before else None


def _decoded_pixels(picture: Picture) -> int:
    """Returns the pixels that a decoder holds in memory, reduced ones where it reduces."""
    return max(math.prod(picture.image.size), picture.buffered)


@contextlib.contextmanager
def _opened(file: ImageFile, max_megapixels: float) -> Iterator[Picture]:
    """Opens an image file; any error inside becomes a `DataError` with the file's name."""
    # Decoders raise arbitrary exceptions for broken files (OSError, SyntaxError, struct.error,
    # DecompressionBombError, ...). To the user they all mean the same.
    try:
        with _content(file) as content:
            picture = open_picture(content)
            with picture.image as image:
                megapixels = math.prod(image.size) / 1e6
                if megapixels > max_megapixels:
                    raise ValueError(
                        f"it has {image.size[0]} x {image.size[1]} pixels, {megapixels:.4g} "
                        f"megapixels; max_megapixels allows {max_megapixels:g}"
                    )
                yield picture
    except Exception as error:
        name = file.name if isinstance(file, EncodedImage) else os.fspath(file)
        raise DataError(
            f"{name!r} cannot be read as an image ({type(error).__name__}: {error}). "
            "Replace the file or remove it."
        ) from error


def _content(file: ImageFile) -> BinaryIO:
    if isinstance(file, EncodedImage):
        return io.BytesIO(file.content)
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("it is not a regular file")  # reading a pipe might never end
    return open(file, "rb")


def _to_rgb(picture: Picture) -> Image.Image:
    image = picture.image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        return _from_16_bits(picture, lambda box: np.asarray(image.crop(box))).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point gray levels have no defined brightness")
    if picture.low_bytes and (picture.key or picture.bits < 16):
        with picture.low_bytes() as low:
            image = _from_16_bits(picture, lambda box: _two_bytes(image.crop(box), low.crop(box)))
    elif picture.key:
        image.info["transparency"] = picture.key if len(picture.key) > 1 else picture.key[0]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(
    picture: Picture, levels_in: Callable[[tuple[int, int, int, int]], np.ndarray]
) -> Image.Image:
    """Scales levels to 0..255, some rows at a time; a transparent color becomes white."""
    width, height = picture.image.size
    rows = max(1, _BAND_PIXELS // width)
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    largest = _white_level(picture, map(levels_in, boxes))
    shown: np.ndarray | None = None
    for box in boxes:
        levels = levels_in(box)
        # Rounds to the nearest.
        band = ((levels.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
        if picture.inverted:
            band = 255 - band
        if picture.key:
            clear = levels == picture.key
            band[clear if levels.ndim == 2 else clear.all(axis=-1)] = 255
        if shown is None:
            shown = np.empty((height, *band.shape[1:]), np.uint8)
        shown[box[1] : box[3]] = band
    assert shown is not None
    return Image.fromarray(shown)


def _white_level(picture: Picture, bands: Iterable[np.ndarray]) -> int:
    """Returns the level that is shown as 255; raises a ValueError if the levels exceed it."""
    largest, shift = 2**picture.bits - 1, 16 - picture.bits
    above = not_upper = False
    for levels in bands:
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("gray levels outside 0..65535 have no defined brightness")
        if picture.bits < 16:
            above |= bool(levels.max() > largest)
            upper = levels.astype(np.uint32) >> shift
            scaled = (upper * 65535 + largest // 2) // largest
            not_upper |= bool(((levels != upper << shift) & (levels != scaled)).any())
    if picture.bits == 16:
        return 65535
    if picture.padded:
        # PNG puts the significant bits into the upper ones. Some programs write the lower ones.
        return 65535 if above or not not_upper else largest
    if above:
        raise ValueError(
            f"some levels are above {largest}, which it states to be the largest, so their "
            "brightness is unknown"
        )
    return largest


def _two_bytes(high: Image.Image, low: Image.Image) -> np.ndarray:
    return np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)


def _for_each(task: Callable[[int], None], count: int, description: str) -> dict[int, DataError]:
    """Runs `task` on 0..count-1 in a thread pool; returns the errors."""

    def errors_of(block: Sequence[int]) -> dict[int, DataError]:
        errors = {}
        for index in block:
            try:
                task(index)
            except DataError as error:
                errors[index] = error
        return errors

    # In blocks, because passing a small image to a thread takes as long as decoding it.
    blocks = [range(start, min(start + 16, count)) for start in range(0, count, 16)]
    errors: dict[int, DataError] = {}
    # Pillow releases Python's lock while it decodes, so threads use all cores. disable=None: no
    # bar if the output is not a terminal.
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm.tqdm(desc=description, total=count, disable=None, leave=False) as bar,
    ):
        for block, block_errors in zip(blocks, pool.map(errors_of, blocks), strict=True):
            errors |= block_errors
            bar.update(len(block))
    return errors
