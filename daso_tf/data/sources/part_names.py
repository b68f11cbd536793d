"""The names of the parts of a data set, in every spelling that people use."""

from __future__ import annotations

import difflib

PARTS = ("train", "unlabeled", "validation", "test")
NO_CLASS = "_unknown"  # the name of test images of no class, in the place of that of a class
_SPELLINGS = {
    **{part: part for part in PARTS},
    "training": "train",
    "unlabelled": "unlabeled",
    "val": "validation",
    "valid": "validation",
    "testing": "test",
}


def part_of(name: str) -> str | None:
    """Returns the part that a name stands for, one of `PARTS`; None if it is no such name.

    Case, spaces, hyphens and underscores do not matter.

    Example:

    >>> part_of("Val"), part_of("un-labelled"), part_of("images")
    ('validation', 'unlabeled', None)
    """
    return _SPELLINGS.get(plain(name))


def nearest_part(name: str) -> str | None:
    """Returns the part whose name a misspelled name resembles; None if there is none.

    Example:

    >>> nearest_part("valdation"), nearest_part("images")
    ('validation', None)
    """
    near = difflib.get_close_matches(plain(name), _SPELLINGS, 1, cutoff=0.75)
    return _SPELLINGS[near[0]] if near else None


def plain(name: str) -> str:
    """Returns a name without what does not matter: case, spaces, hyphens and underscores."""
    return name.casefold().translate({ord(character): None for character in " -_"})
