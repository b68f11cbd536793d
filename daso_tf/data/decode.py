"""Decodes image files of all common formats to uint8 RGB arrays, with Pillow."""

import contextlib
import dataclasses
import io
import math
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import tqdm
from PIL import Image, ImageOps, UnidentifiedImageError

from daso_tf.data.errors import DataError
from daso_tf.data.memory import Budget, empty_images, machine_memory

# EXIF orientations that rotate by 90 degrees, which swaps height and width.
_ORIENTATION_TAG = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)

# Pillow recognizes a format by the file's content, whatever its name, and starts another program
# for some formats (EPS). It decodes these formats itself, if it was built with them.
Image.init()
_FORMATS = tuple(
    kind
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
    if kind in Image.ID
)

# The largest cameras and phones make pictures of 200 megapixels.
MAX_MEGAPIXELS = 250.0
# Pillow's pixel has 4 bytes; the copy with another orientation or mode and the array come on top.
_BYTES_PER_PIXEL = 16
# All threads together decode in an eighth of the memory, or one picture at a time.
_decoding = Budget(machine_memory() // 8 // _BYTES_PER_PIXEL)
_BAND_PIXELS = 2**20  # pixels of 16-bit gray that are scaled at a time


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

    The EXIF orientation is applied. Gray, palette and CMYK images are converted to RGB.
    Transparent parts are shown on white. 16-bit gray is scaled from 0..65535 to 0..255. Only the
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
    with _decoded(file, max_megapixels) as image:
        return np.asarray(image)


def read_at_size(
    file: ImageFile, size: tuple[int, int], max_megapixels: float = MAX_MEGAPIXELS
) -> np.ndarray:
    """Reads one image file like `read_image` and resizes it like `resize`, with less memory.

    Args:
        file: See `read_image`.
        size: Height and width in pixels.
        max_megapixels: See `read_image`.

    Returns:
        uint8 array of shape `(*size, 3)`.

    Raises:
        DataError: See `read_image`.
    """
    with _decoded(file, max_megapixels) as image:
        return np.asarray(_resized(image, size))


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
        with _opened(files[index], max_megapixels) as image:
            width, height = image.size
            turned = width != height and _is_turned(image)
            sizes.add((width, height) if turned else (height, width))

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


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


@contextlib.contextmanager
def _decoded(file: ImageFile, max_megapixels: float) -> Iterator[Image.Image]:
    """Opens an image file the way a viewer shows it, as RGB, when there is memory for it."""
    with _opened(file, max_megapixels) as image, _decoding.taking(math.prod(image.size)):
        ImageOps.exif_transpose(image, in_place=True)
        yield _to_rgb(image)


@contextlib.contextmanager
def _opened(file: ImageFile, max_megapixels: float) -> Iterator[Image.Image]:
    """Opens an image file; any error inside becomes a `DataError` with the file's name."""
    # Decoders raise arbitrary exceptions for broken files (OSError, SyntaxError, struct.error,
    # DecompressionBombError, ...). To the user they all mean the same.
    try:
        with _content(file) as content, _open(content, file) as image:
            megapixels = math.prod(image.size) / 1e6
            if megapixels > max_megapixels:
                raise ValueError(
                    f"it has {image.size[0]} x {image.size[1]} pixels, {megapixels:.4g} "
                    f"megapixels; max_megapixels allows {max_megapixels:g}"
                )
            yield image
    except Exception as error:
        name = file.name if isinstance(file, EncodedImage) else os.fspath(file)
        raise DataError(
            f"{name!r} cannot be read as an image ({type(error).__name__}: {error}). "
            "Replace the file or remove it."
        ) from error


def _is_turned(image: Image.Image) -> bool:
    # EXIF data may follow the pixels of a PNG file; Pillow then decodes them.
    with _decoding.taking(math.prod(image.size)):
        return image.getexif().get(_ORIENTATION_TAG) in _QUARTER_TURNS


def _content(file: ImageFile) -> BinaryIO:
    if isinstance(file, EncodedImage):
        return io.BytesIO(file.content)
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("it is not a regular file")  # reading a pipe might never end
    return open(file, "rb")


def _open(content: BinaryIO, file: ImageFile) -> Image.Image:
    """Opens an image like `Image.open`, which has a limit of its own for the whole process.

    That limit is 179 megapixels, less than some cameras have.
    """
    name = "" if isinstance(file, EncodedImage) else os.fspath(file)
    prefix = content.read(16)
    for kind in _FORMATS:
        factory, accepts = Image.OPEN[kind]
        accepted = not accepts or accepts(prefix)
        if accepted and not isinstance(accepted, str):  # a text says why it cannot be read
            content.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(content, name)
    raise UnidentifiedImageError("its content is not that of a known format")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        image = _from_16_bits(image)
    elif image.mode == "F":
        raise ValueError("floating-point gray levels have no defined brightness")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scales gray levels from 0..65535 to 0..255, some rows at a time."""
    width, height = image.size
    gray = np.empty((height, width), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        levels = np.asarray(image.crop((0, top, width, bottom)))
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("gray levels outside 0..65535 have no defined brightness")
        gray[top:bottom] = (levels.astype(np.uint32) + 128) // 257  # rounds to the nearest
    return Image.fromarray(gray)


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
