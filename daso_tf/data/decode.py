"""Image files of any common kind as uint8 RGB arrays, by Pillow."""

import dataclasses
import io
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tqdm
from PIL import Image, ImageOps

from daso_tf.data.errors import DataError
from daso_tf.data.memory import empty_images

# EXIF orientations that turn the picture by a quarter, so that height and width change places.
_ORIENTATION_TAG = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)

# Pillow goes by a file's content, whatever its name, and would start another program for some
# kinds (EPS). These it reads by itself, each where it was built with it.
Image.init()
_FORMATS = tuple(
    kind
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
    if kind in Image.ID
)


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The content of an image file that does not lie in a folder, with a name for messages."""

    name: str
    content: bytes


ImageFile = str | os.PathLike | EncodedImage


def read_image(file: ImageFile) -> np.ndarray:
    """Reads one image file as a viewer would show it.

    The EXIF orientation is applied. Grey, palette and CMYK images become RGB; transparent parts
    are shown over white; of 16-bit grey the full range 0..65535 is brought to 0..255; of an
    animation the first frame counts.

    Args:
        file: path, or content, of a JPEG, PNG, BMP, GIF, TIFF, WebP, PPM, JPEG 2000 or AVIF file.

    Returns:
        uint8 array of shape (height, width, 3).

    Raises:
        DataError: the file cannot be read as an image.
    """
    with _opened(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(_to_rgb(image))


def read_images(
    files: Sequence[ImageFile], size: tuple[int, int]
) -> tuple[np.ndarray, dict[int, DataError]]:
    """Reads image files in parallel, all brought to one size.

    Args:
        files: N files.
        size: height and width in pixels. Images of other sizes are resized (antialiased bilinear,
            the aspect ratio is not kept).

    Returns:
        A uint8 array of shape (N, height, width, 3), and what is wrong with the files that cannot
        be read, by their position; what the array holds in their place means nothing.
    """
    images = empty_images(len(files), size)

    def read(index: int) -> None:
        images[index] = resize(read_image(files[index]), size)

    return images, _for_each(read, len(files), "Reading images")


def image_sizes(
    files: Sequence[ImageFile],
) -> tuple[set[tuple[int, int]], dict[int, DataError]]:
    """Looks at the headers of image files in parallel.

    Args:
        files: N files.

    Returns:
        The sizes (height, width) that occur, and what is wrong with the files that are no images,
        by their position.
    """
    sizes = set()

    def look(index: int) -> None:
        with _opened(files[index]) as image:
            width, height = image.size
            turned = width != height and image.getexif().get(_ORIENTATION_TAG) in _QUARTER_TURNS
            sizes.add((width, height) if turned else (height, width))

    return sizes, _for_each(look, len(files), "Checking images")


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a uint8 RGB image at `size` (height, width), antialiased bilinear."""
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


class _opened:  # noqa: N801 - reads as the context manager it is
    """Opens an image file; whatever goes wrong inside is a DataError with the file's name."""

    def __init__(self, file: ImageFile):
        encoded = isinstance(file, EncodedImage)
        self.name = file.name if encoded else os.fspath(file)
        self.file = io.BytesIO(file.content) if encoded else file

    def __enter__(self):
        try:
            if not isinstance(self.file, io.BytesIO) and not stat.S_ISREG(
                os.stat(self.file).st_mode
            ):
                raise ValueError("it is no regular file")  # reading a pipe might never end
            self.image = Image.open(self.file, formats=_FORMATS)
        except Exception as error:
            raise self._refusal(error) from error
        return self.image

    def __exit__(self, kind, error, trace):
        self.image.close()
        # Decoders raise whatever they like on broken files (OSError, SyntaxError, struct.error,
        # DecompressionBombError, ...); to the user all of them are one thing.
        if isinstance(error, Exception):
            raise self._refusal(error) from error

    def _refusal(self, error):
        return DataError(
            f"{self.name!r} cannot be read as an image ({type(error).__name__}: {error}). "
            "Replace the file or remove it."
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("grey levels outside 0..65535 have no agreed brightness")
        image = Image.fromarray(np.round(levels / 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point grey levels have no agreed brightness")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _for_each(task: Callable, count: int, description: str) -> dict[int, DataError]:
    """Runs `task` on 0..count-1 in a thread pool; returns what failed."""

    def errors_of(block: Sequence[int]) -> dict[int, DataError]:
        errors = {}
        for index in block:
            try:
                task(index)
            except DataError as error:
                errors[index] = error
        return errors

    # Blocks, since handing over a small image takes as long as decoding it.
    blocks = [range(start, min(start + 16, count)) for start in range(0, count, 16)]
    errors = {}
    # Pillow decodes without Python's lock, so threads do use all cores. disable=None: no bar where
    # the output is not a terminal.
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm.tqdm(desc=description, total=count, disable=None, leave=False) as bar,
    ):
        for block, block_errors in zip(blocks, pool.map(errors_of, blocks), strict=True):
            errors |= block_errors
            bar.update(len(block))
    return errors
