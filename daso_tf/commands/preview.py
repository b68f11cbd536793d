"""Shows what the augmentations do to one's own images: a labelled contact sheet.

    python -m daso_tf.augment.preview IMAGE_OR_FOLDER OUT.png

The sheet has each operation at three levels on the first image, then weak and strong views of up
to four images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from daso_tf.augment.ops import OPS
from daso_tf.augment.policies import RandAugment, Weak, magnitudes

LEVELS = (1, 5, 9)
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
COLUMNS = 7  # half of the operations; also the number of weak and of strong views
MOST_IMAGES = 4
GAP, CAPTION_HEIGHT, CAPTION_WIDTH = 6, 14, 84  # pixels


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the images and writes the sheet.

    Args:
        arguments: The command line without the program's name; None takes the process's own.

    Raises:
        SystemExit: An argument cannot be used; the message says which and why.

    Example:

    >>> main(["photo.jpg", "sheet.png"])  # doctest: +SKIP
    """
    parser = argparse.ArgumentParser(
        prog="python -m daso_tf.augment.preview",
        description="Writes a contact sheet of the augmentations of an image.",
    )
    parser.add_argument("source", type=Path, help="an image, or a folder of images")
    parser.add_argument("output", type=Path, help="the picture to write, a .png file")
    parser.add_argument("--side", type=int, default=96, help="a view's longer side in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the random views")
    options = parser.parse_args(arguments)
    if options.output.suffix.lower() != ".png":
        parser.error(f"the sheet is a PNG picture: {options.output} does not end in .png")
    if not options.output.absolute().parent.is_dir():
        parser.error(f"there is no folder {options.output.absolute().parent} to write to")
    if not 8 <= options.side <= 512:
        parser.error(f"--side must be 8 to 512 pixels, got {options.side}")
    try:
        images = read_images(options.source, options.side)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    contact_sheet(images, seed=options.seed).save(options.output, optimize=True)
    print(f"Wrote {options.output}")


def read_images(source: Path, side: int) -> list[np.ndarray]:
    """Reads an image, or the first few of a folder in the order of their names.

    Args:
        source: An image file or a folder that has some.
        side: The longer side in pixels to which each is reduced.

    Returns:
        Up to four images, uint8 `[H, W, 3]`, values 0 to 255.

    Raises:
        FileNotFoundError: There is no such file or folder, or the folder has no images.
        ValueError: A file is no image that Pillow reads.

    Example:

    >>> images = read_images(Path("photos"), side=96)  # doctest: +SKIP
    """
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileNotFoundError(f"the folder {source} has no images ({', '.join(SUFFIXES)})")
    elif not source.exists():
        raise FileNotFoundError(f"there is no image or folder {source}")
    images = []
    for path in paths[:MOST_IMAGES]:
        try:
            image = Image.open(path).convert("RGB")
        except OSError as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
        images.append(np.asarray(image))
    return images


def contact_sheet(images: Sequence[np.ndarray], seed: int = 0) -> Image.Image:
    """Draws each operation on the first image, and weak and strong views of all of them.

    Args:
        images: One or more, each uint8 `[H, W, 3]`, values 0 to 255.
        seed: Of the random views.

    Returns:
        The sheet, an RGB picture.

    Raises:
        TypeError: An image is not uint8.
        ValueError: An image does not have the shape `[H, W, 3]`.

    Example:

    >>> contact_sheet([np.zeros([32, 32, 3], np.uint8)]).size
    (636, 422)
    """
    return _sheet([*_operation_rows(images[0]), *_random_rows(images, seed)])


def _operation_rows(image):
    """Yields rows of (caption, view): half of the operations, a row a level; then the others."""
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


def _random_rows(images, seed):
    """Yields rows of (caption, view): weak, then strong views of each image."""
    weak, strong = Weak(), RandAugment()
    for i, image in enumerate(images):
        views = weak(np.stack([image] * COLUMNS), seed=[seed, i])
        yield [("weak", view) for view in views.numpy()]
        yield [("strong", view) for view in strong(views, seed=[seed, i]).numpy()]


def _sheet(rows):
    """Sets rows of (caption, view) under each other, each caption above its view."""
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
