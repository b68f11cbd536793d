"""Finds images that occur twice: identical pixels, and near copies by a perceptual hash."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tqdm
from PIL import Image

from daso_tf.data.errors import DataError
from daso_tf.data.pools import Pool

# `imagehash.phash` has 64 bits, about half of them set. Among 20,000 images of CIFAR-10, 58 pairs
# differ in at most 4 bits; 57 of them show the same picture, the other one an almost empty sky.
_BITS = 64
_MOST_DIFFERING_BITS = 4
_LEAST_BITS_SET = 16  # an image of one color has no structure to compare: at most 1 bit is set
_HASHED_SIDE = 128  # pixels to which an image is reduced first; the hash needs 32
_BLOCK = 2**25  # pairs that are compared at once

# An image is a copy of the first one that it equals, in this order of the parts.
_ORDER = ("test", "validation", "labeled", "unlabeled")


class Copy(NamedTuple):
    """An image that occurs a second time.

    Attributes:
        part: "labeled", "unlabeled", "validation" or "test".
        place: Its place among the chosen images of the part.
        name: Its file, or its number in the data set.
        label: Its class, -1 where unknown.
        original_part: The part of the image that it is a copy of.
        original_name: The name of that image.
        original_label: The class of that image.
        identical: Whether all pixels are the same. If not, it only looks the same.
    """

    part: str
    place: int
    name: str
    label: int
    original_part: str
    original_name: str
    original_label: int
    identical: bool


PerceptualHash = Callable[[Image.Image], np.ndarray]


def perceptual_hash() -> PerceptualHash:
    """Returns a function from a picture to 64 bits, of which similar pictures share most.

    Raises:
        DataError: If the extra `copies` is not installed.
    """
    try:
        imagehash = importlib.import_module("imagehash")
    except ImportError as error:
        raise DataError(
            f"finding near copies needs a package that cannot be imported ({error}): "
            'pip install "daso_tf[copies]"'
        ) from error
    return lambda picture: imagehash.phash(picture).hash


def find_copies(
    parts: Mapping[str, tuple[Pool, np.ndarray]], hash_of: PerceptualHash | None
) -> list[Copy]:
    """Finds the images that are copies of others, in the same part or in another.

    Test images are the originals of all others, then come validation, labeled and unlabeled images.
    So an unlabeled image is listed for every picture that occurs elsewhere, too. All images are
    read once; those that cannot be read are left out.

    Args:
        parts: By name, a pool and the positions chosen in it.
        hash_of: The `perceptual_hash`; None finds identical pixels alone.

    Returns:
        One entry per copy. Copies of images of other parts come first.
    """
    images = [
        (part, place, *parts[part][:1], member)
        for part in _ORDER
        if part in parts
        for place, member in enumerate(parts[part][1].tolist())
    ]

    def prints(image: tuple[str, int, Pool, int]) -> tuple[bytes, np.ndarray | None]:
        _, _, pool, member = image
        try:
            pixels = pool.pixels(member)
        except DataError:
            return b"", None
        digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
        digest.update(pixels.tobytes())
        return digest.digest(), hash_of and _bits(pixels, hash_of)

    # Pillow releases Python's lock while it decodes, so threads use all cores.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        printed = threads.map(prints, images)
        found = list(tqdm.tqdm(printed, "Comparing images", len(images), disable=None, leave=False))
    digests = [digest for digest, _ in found]
    originals = _first_with_digest(digests)
    identical = originals < np.arange(len(images))
    if hash_of:
        alone = np.flatnonzero(~identical)
        hashes = [found[image][1] for image in alone]
        originals[alone] = alone[_first_near(hashes)]
    copies = []
    for image in np.flatnonzero(originals < np.arange(len(images))):
        (part, place, pool, member), other = images[image], images[originals[image]]
        other_part, _, other_pool, other_member = other
        copies.append(
            Copy(
                part,
                place,
                pool.name(member),
                int(pool.labels[member]),
                other_part,
                other_pool.name(other_member),
                int(other_pool.labels[other_member]),
                bool(identical[image]),
            )
        )
    return sorted(copies, key=lambda copy: copy.part == copy.original_part)


def _bits(pixels: np.ndarray, hash_of: PerceptualHash) -> np.ndarray:
    """Returns the hash as -1 and 1, so that products count bits; zeros for an empty image."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_HASHED_SIDE, _HASHED_SIDE), Image.Resampling.BILINEAR)
    bits = hash_of(picture).ravel()
    if bits.sum() < _LEAST_BITS_SET:
        return np.zeros(_BITS, np.float32)
    return np.where(bits, 1, -1).astype(np.float32)


def _first_with_digest(digests: list[bytes]) -> np.ndarray:
    """Returns for each image the first one with its digest; an empty digest equals none."""
    first: dict[bytes, int] = {}
    numbers = range(len(digests))
    return np.array(
        [first.setdefault(digests[k], k) if digests[k] else k for k in numbers], np.int64
    )


def _first_near(hashes: list[np.ndarray | None]) -> np.ndarray:
    """Returns for each hash the first one that differs from it in few bits, or its own number.

    Two hashes of -1 and 1 that differ in d of 64 bits have the product 64 - 2 d, so a product of
    matrices compares all pairs.
    """
    nothing = np.zeros(_BITS, np.float32)
    bits = np.stack([nothing if each is None else each for each in hashes] or [nothing])
    first = np.arange(len(hashes))
    rows = max(1, _BLOCK // len(bits))
    for start in range(0, len(hashes), rows):
        block = bits[start : start + rows]
        near = block @ bits[: start + len(block)].T >= _BITS - 2 * _MOST_DIFFERING_BITS
        # Only earlier images count; behind them, each image stands for itself.
        place = np.arange(len(block))
        near[:, start:] = np.tril(near[:, start:], -1)
        near[place, start + place] = True
        first[start : start + len(block)] = near.argmax(axis=1)
    return first
