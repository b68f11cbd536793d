"""What data consists of: its classes and its images, by which a run recognizes its data."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daso_tf.data.decode import EncodedImage, ImageFile
from daso_tf.data.images import ImageFiles, Images
from daso_tf.data.semi_supervised import SemiSupervisedData

PARTS = ("labeled", "unlabeled", "validation", "test")
_EXAMPLES = 3  # names in a message
_Key = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Part:
    """The images of a part, in order.

    Args:
        names: N names: paths relative to the folder of the data, names in a data set, or digests
            of the pixels of images that are in no file.
        sizes: N sizes in bytes.
        labels: N classes, -1 where unknown.
        has_files: Whether the names are for people.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]
    has_files: bool = True

    def __len__(self) -> int:
        return len(self.names)

    @property
    def keys(self) -> list[_Key]:
        """Name and size of each image: a file with another size is another image."""
        return list(zip(self.names, self.sizes, strict=True))

    @property
    def fingerprint(self) -> str:
        """A short text that other images, another order or other classes change."""
        content = repr((self.names, self.sizes, self.labels)).encode()
        return hashlib.sha256(content).hexdigest()[:16]

    def counts(self, num_classes: int) -> list[int] | None:
        """Returns the images of each class; None where some classes are not known."""
        if min(self.labels, default=0) < 0:
            return None
        return np.bincount(self.labels, minlength=num_classes).tolist()

    def positions_of(self, earlier: Part) -> np.ndarray:
        """Returns where each image of this part was in an earlier one.

        Args:
            earlier: The same part at another time.

        Returns:
            int64 `(N,)`; -1 for an image that is new.

        Example:

        >>> before, now = (Part(names, (1, 1), (0, 0)) for names in (("a", "b"), ("b", "c")))
        >>> now.positions_of(before)
        array([ 1, -1])
        """
        places: dict[_Key, list[int]] = {}
        for place, key in reversed(list(enumerate(earlier.keys))):
            places.setdefault(key, []).append(place)  # the same image may occur twice
        found = [places[key].pop() if places.get(key) else -1 for key in self.keys]
        return np.array(found, np.int64)


class Identity(NamedTuple):
    """What data consists of.

    Attributes:
        class_names: K names, in the order of the labels.
        parts: By the name of the part; those that there are.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Part]

    @property
    def evaluated(self) -> str:
        """A fingerprint of what evaluations depend on: classes, validation and test images."""
        evaluated = [sorted(self.parts[name].keys) for name in PARTS[2:] if name in self.parts]
        return hashlib.sha256(repr((self.class_names, evaluated)).encode()).hexdigest()[:16]


class Differences(NamedTuple):
    """How data differs from what it was, in words.

    Attributes:
        unlabeled: Other unlabeled images.
        others: Everything else.
    """

    unlabeled: list[str]
    others: list[str]


def identify(data: SemiSupervisedData, data_dir: str | os.PathLike[str] | None = None) -> Identity:
    """Returns what data consists of.

    Args:
        data: Any data.
        data_dir: The folder that names of files are relative to, so that it can be moved.

    Raises:
        OSError: If a file is no longer there.

    Example:

    >>> images = np.zeros((6, 8, 8, 3), np.uint8)
    >>> identity = identify(daso_tf.data.from_arrays(images[:2], [0, 1], images[2:]))
    >>> {name: len(part) for name, part in identity.parts.items()}
    {'labeled': 2, 'unlabeled': 4}
    """
    root = "" if data_dir is None else os.path.join(Path(data_dir), "")
    parts = {name: getattr(data, name) for name in PARTS}
    return Identity(
        data.class_names,
        {name: _part(images, root) for name, images in parts.items() if images is not None},
    )


def compare(then: Identity, now: Identity) -> Differences:
    """Returns how data differs from what it was; names what differs.

    The order of validation and test images does not matter.

    Args:
        then: What the data was.
        now: What it is.
    """
    found = Differences([], list(_class_differences(then, now)))
    if found.others:
        return found  # all labels have changed: the rest would repeat it
    for name in PARTS:
        if text := _part_difference(name, then, now):
            (found.unlabeled if name == "unlabeled" else found.others).append(f"{name}: {text}")
    return found


def _part(images: Images | ImageFiles, root: str) -> Part:
    labels = tuple(images.labels.tolist())
    if images.files is not None:
        named = [_name_and_size(file, root) for file in images.files]
        return Part(tuple(name for name, _ in named), tuple(size for _, size in named), labels)
    assert isinstance(images, Images)  # the others have files
    size = images.images[0].nbytes if len(images) else 0
    digests = (
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).hexdigest()
        for image in images.images
    )
    return Part(tuple(digests), (size,) * len(images), labels, has_files=False)


def _name_and_size(file: ImageFile, root: str) -> _Key:
    if isinstance(file, EncodedImage):
        return file.name, len(file.content)
    return os.fspath(file).removeprefix(root), os.path.getsize(file)


def _class_differences(then: Identity, now: Identity) -> Iterator[str]:
    gone = [name for name in then.class_names if name not in now.class_names]
    new = [name for name in now.class_names if name not in then.class_names]
    for name in list(gone):
        images = _labeled_images(then, name)
        other = next((other for other in new if _labeled_images(now, other) == images), None)
        if other is not None:
            yield f"class {name!r} is called {other!r} now"
            gone.remove(name)
            new.remove(other)
    yield from (f"class {name!r} is gone" for name in gone)
    yield from (f"class {name!r} is new" for name in new)
    if set(then.class_names) == set(now.class_names) and then.class_names != now.class_names:
        names = " there, ".join(
            ", ".join(map(repr, identity.class_names)) for identity in (then, now)
        )
        yield f"the classes are in another order: {names} now"


def _labeled_images(identity: Identity, class_name: str) -> Counter[_Key]:
    """Returns the labeled images of a class, without their folders, one of which is its name."""
    label, part = identity.class_names.index(class_name), identity.parts["labeled"]
    return Counter(
        (os.path.basename(name), size)
        for (name, size), of_image in zip(part.keys, part.labels, strict=True)
        if of_image == label
    )


def _part_difference(name: str, then: Identity, now: Identity) -> str:
    """Returns how a part differs, in words; nothing where it does not."""
    before, after = then.parts.get(name), now.parts.get(name)
    if before is None or after is None:
        counts = [0 if part is None else len(part) for part in (before, after)]
        return "" if before is after else f"{counts[0]} images there, {counts[1]} now"
    if before == after:
        return ""
    more = list((Counter(after.keys) - Counter(before.keys)).elements())
    fewer = list((Counter(before.keys) - Counter(after.keys)).elements())
    sizes = dict(fewer)
    changed = [name for name, _ in more if name in sizes] if after.has_files else []
    more = [key for key in more if key[0] not in changed]
    fewer = [key for key in fewer if key[0] not in changed]
    texts = [
        f"{_images(keys)} {word}{_examples(keys, after)}"
        for keys, word in ((more, "more"), (fewer, "fewer"))
        if keys
    ]
    if changed:
        keys = [(name, sizes[name]) for name in changed]
        texts.append(f"{_images(keys)} of another size{_examples(keys, after)}")
    if not texts:
        labels = dict(zip(before.keys, before.labels, strict=True))
        keys = [
            key for key, label in zip(after.keys, after.labels, strict=True) if labels[key] != label
        ]
        if keys:
            texts.append(f"{_images(keys)} of another class{_examples(keys, after)}")
        elif name in PARTS[:2]:
            texts.append("the same images in another order")
        return ", ".join(texts)
    return ", ".join([*texts, *_class_counts(before, after, now.class_names)])


def _class_counts(before: Part, after: Part, class_names: Sequence[str]) -> Iterator[str]:
    """Yields the classes that have another number of images."""
    counts = before.counts(len(class_names)), after.counts(len(class_names))
    if counts[0] is None or counts[1] is None:
        return
    for class_name, there, here in zip(class_names, counts[0], counts[1], strict=True):
        if there != here:
            yield f"class {class_name!r}: {there} there, {here} now"


def _images(keys: Sequence[_Key]) -> str:
    return f"{len(keys)} image{'s' * (len(keys) != 1)}"


def _examples(keys: Iterable[_Key], part: Part) -> str:
    names = [repr(name) for name, _ in keys]
    if not part.has_files:
        return ""
    return f" ({', '.join(names[:_EXAMPLES])}{', ...' * (len(names) > _EXAMPLES)})"
