"""What is said about the copies among the images of a data set."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from daso_tf.data.copies import Copy
from daso_tf.data.text import printable
from daso_tf.platform.files import write_atomically

MOST_SHOWN = 20


def found(copies: Sequence[Copy], class_names: Sequence[str]) -> str:
    """Returns in words how many images are copies of others, and the first of them.

    Args:
        copies: Those that `daso_tf.data.copies.find_copies` found.
        class_names: K names.

    Example:

    >>> copies = [Copy("unlabeled", 3, "a.jpg", -1, "test", "b.jpg", 1, identical=True)]
    >>> print(found(copies, ["cat", "dog"]))
    1 image is a copy of another: 1 identical, 0 near.
    Copies of test images: 1 unlabeled.
      unlabeled 'a.jpg' = test 'b.jpg' (dog)
    """
    if not copies:
        return "No image is a copy of another."
    count = len(copies)
    identical = sum(copy.identical for copy in copies)
    images = (
        "1 image is a copy of another" if count == 1 else f"{count} images are copies of others"
    )
    lines = [f"{images}: {identical} identical, {count - identical} near."]
    pairs = Counter((copy.original_part, copy.part) for copy in copies)
    for original in dict.fromkeys(part for part, _ in pairs):
        of = [f"{pairs[original, part]} {part}" for first, part in pairs if first == original]
        lines.append(f"Copies of {original} images: {', '.join(of)}.")
    for copy in copies[:MOST_SHOWN]:
        sign = "=" if copy.identical else "~"
        one = _image(copy.part, copy.name, copy.label, class_names)
        other = _image(copy.original_part, copy.original_name, copy.original_label, class_names)
        lines.append(f"  {one} {sign} {other}")
    return "\n".join([*lines, *(["  ..."] if count > MOST_SHOWN else [])])


def write(copies: Sequence[Copy], class_names: Sequence[str], path: Path) -> None:
    """Writes all copies as CSV, one per line.

    Args:
        copies: Those that `daso_tf.data.copies.find_copies` found.
        class_names: K names.
        path: The file to write.
    """

    def name_of(label: int) -> str:
        return class_names[label] if label >= 0 else ""

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["kind", "part", "path", "class", "copy_of_part", "path", "class"])
    for copy in copies:
        writer.writerow(
            [
                "identical" if copy.identical else "near",
                *(copy.part, copy.name, name_of(copy.label)),
                *(copy.original_part, copy.original_name, name_of(copy.original_label)),
            ]
        )
    content = text.getvalue().encode(errors="surrogateescape")
    write_atomically(path, lambda file: file.write(content))


def _image(part: str, name: str, label: int, class_names: Sequence[str]) -> str:
    of_class = f" ({printable(class_names[label])})" if label >= 0 else ""
    return f"{part} {name!r}{of_class}"
