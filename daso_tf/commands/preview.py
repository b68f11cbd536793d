"""Shows what the augmentations do to your images, as a contact sheet with captions.

    daso-tf preview IMAGE_OR_FOLDER OUT.png

The sheet shows each operation at three levels on the first image, then weak and strong views of
up to four images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from daso_tf.augment.ops import OPS
from daso_tf.augment.policies import RandAugment, Weak, magnitudes
from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.data import read_image
from daso_tf.data.folders import files_below
from daso_tf.platform.files import write_atomically
from daso_tf.settings.settings import Settings

LEVELS = (1, 5, 9)
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
COLUMNS = 7  # half of the operations; also the number of weak and of strong views
MOST_IMAGES = 4
GAP, CAPTION_HEIGHT, CAPTION_WIDTH = 6, 14, 84  # pixels

_Row = list[tuple[str, np.ndarray]]  # captions and views


def main(settings: Settings, arguments: list[str]) -> int:
    """Reads the images and writes the sheet.

    Args:
        settings: The values of the flags.
        arguments: An image or a folder of images, and the PNG file to write.

    Returns:
        The exit code.
    """
    if len(arguments) != 2:
        return terminal.fail("needs images and a picture to write: IMAGE_OR_FOLDER OUT.png")
    source, output = map(Path, arguments)
    if output.suffix.lower() != ".png":
        return terminal.fail(f"the sheet is a PNG picture, but {output} does not end in .png")
    if not output.absolute().parent.is_dir():
        return terminal.fail(f"there is no folder {output.absolute().parent} to write to")
    images = read_images(source, settings.side)
    sheet = contact_sheet(images, seed=settings.seed)
    write_atomically(output, lambda file: sheet.save(file, "PNG", optimize=True))
    print(f"Wrote {output}")
    return 0


def read_images(source: Path, side: int) -> list[np.ndarray]:
    """Reads an image, or the first images of a folder, sorted by name.

    Args:
        source: An image file, or a folder with image files in it or in its subfolders.
        side: The longer side in pixels to which each image is reduced.

    Returns:
        Up to four images, uint8 `[H, W, 3]`, values 0 to 255.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no image in the folder.
        ValueError: If Pillow cannot read a file as an image.

    Example:

    >>> images = read_images(Path("photos"), side=96)  # doctest: +SKIP
    """
    paths = [source]
    if source.is_dir():
        found = (Path(entry.path) for entry in files_below(source))
        paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileNotFoundError(f"the folder {source} has no images ({', '.join(SUFFIXES)})")
    elif not source.exists():
        raise FileNotFoundError(f"there is no image or folder {source}")
    images = []
    for path in paths[:MOST_IMAGES]:
        image = Image.fromarray(read_image(path))
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
        images.append(np.asarray(image))
    return images


def contact_sheet(images: Sequence[np.ndarray], seed: int = 0) -> Image.Image:
    """Draws each operation on the first image, and weak and strong views of all of them.

    Args:
        images: One or more images, each uint8 `[H, W, 3]`, values 0 to 255.
        seed: Seed of the random views.

    Returns:
        The sheet, an RGB picture.

    Raises:
        TypeError: If an image is not uint8.
        ValueError: If an image does not have the shape `[H, W, 3]`.

    Example:

    >>> contact_sheet([np.zeros([32, 32, 3], np.uint8)]).size
    (636, 422)
    """
    return _sheet([*_operation_rows(images[0]), *_random_rows(images, seed)])


def _operation_rows(image: np.ndarray) -> Iterator[_Row]:
    """Yields one row per level for the first half of the operations, then for the others."""
    height, width = image.shape[:2]
    names = list(OPS)
    for half in (names[:COLUMNS], names[COLUMNS:]):
        for level in LEVELS:
            strengths = [magnitudes(name, height, width)[level - 1] for name in half]
            views = [
                OPS[name](image[np.newaxis], [strength])[0].numpy()
                for name, strength in zip(half, strengths, strict=True)
            ]
            captions = [
                f"{name}  {strength:.3g}" if strength else name
                for name, strength in zip(half, strengths, strict=True)
            ]
            yield list(zip(captions, views, strict=True))


def _random_rows(images: Sequence[np.ndarray], seed: int) -> Iterator[_Row]:
    """Yields two rows per image: weak views and strong views."""
    weak, strong = Weak(), RandAugment()
    for i, image in enumerate(images):
        views = weak(np.stack([image] * COLUMNS), seed=[seed, i])
        yield [("weak", view) for view in views.numpy()]
        yield [("strong", view) for view in strong(views, seed=[seed, i]).numpy()]


def _sheet(rows: Sequence[_Row]) -> Image.Image:
    """Draws the rows one below the other, each caption above its view."""
    font = ImageFont.load_default(size=10)
    column = max(CAPTION_WIDTH, *(view.shape[1] for row in rows for _, view in row)) + GAP
    heights = [row[0][1].shape[0] + CAPTION_HEIGHT + GAP for row in rows]
    sheet = Image.new("RGB", (COLUMNS * column + GAP, sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for i, (caption, view) in enumerate(row):
            left = GAP + i * column
            draw.text((left, top), caption, fill="black", font=font)
            sheet.paste(Image.fromarray(view), (left, top + CAPTION_HEIGHT))
        top += height
    return sheet


COMMAND = COMMANDS["preview"]
