"""The names, files and thumbnails of the pictures of a run."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from daso_tf.data import DataError, ImageFiles, Images, Rows
from daso_tf.data.decode import EncodedImage, ImageFile, read_image
from daso_tf.data.identity import Part

SIDE = 96  # largest side in pixels of a thumbnail
_QUALITY = 70  # of JPEG


class Pictures:
    """The pictures of a part, as people see them.

    Args:
        images: All pictures of the part, or their rows in a feature bank.
        part: Their names, which are relative to the folder of the data.
        places: int `(N,)`, which of them, by their places among all; by default all.

    Attributes:
        names: N texts.
        labels: int `(N,)`, the classes, -1 where unknown.
    """

    def __init__(
        self, images: Images | ImageFiles | Rows, part: Part, places: np.ndarray | None = None
    ):
        if isinstance(images, Rows) and images.pictures is not None:
            images = images.pictures
        self.images = images
        self.part = part
        self.places = np.arange(len(images)) if places is None else places
        self.labels = images.labels[self.places]
        self.names = [
            part.names[place] if part.has_files else f"image {place}"
            for place in self.places.tolist()
        ]

    def __len__(self) -> int:
        return len(self.places)

    def only(self, places: np.ndarray) -> Pictures:
        """Returns some of the pictures, by their places among all of the part."""
        return Pictures(self.images, self.part, places)

    def source(self, place: int) -> ImageFile | np.ndarray:
        """Returns the file of a picture, or its pixels where there is no file."""
        original = self.places[place]
        if self.images.files is not None:
            return self.images.files[original]
        return self.images.take(np.array([original]))[0]


def link_to(source: ImageFile | np.ndarray, folder: Path) -> str | None:
    """Returns the address of a file relative to a folder; None for what is in no file.

    Args:
        source: The file, or pixels.
        folder: The folder of the page with the link.
    """
    if isinstance(source, (EncodedImage, np.ndarray)):
        return None
    return quote(os.fsencode(os.path.relpath(source, folder)))


class Thumbnails:
    """Makes small JPEG pictures as data URIs until their bytes are used up.

    Args:
        max_megapixels: Largest number of pixels of a file, in millions; see `read_image`.
        most: Number of bytes of all thumbnails together.
    """

    def __init__(self, max_megapixels: float, most: int = 8_000_000):
        self.max_megapixels = max_megapixels
        self.left = most

    def __call__(self, source: ImageFile | np.ndarray) -> str | None:
        """Returns a thumbnail; None for one too many, or where the file cannot be read.

        Args:
            source: The file, or pixels.
        """
        if self.left <= 0:
            return None
        try:
            pixels = (
                source
                if isinstance(source, np.ndarray)
                else read_image(source, self.max_megapixels)
            )
        except (DataError, OSError):
            return None
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE))
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=_QUALITY)
        uri = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
        self.left -= len(uri)
        return uri if self.left >= 0 else None
