"""Which class is the head of a long-tailed split, and in which order the others follow."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from daso_tf.data.errors import DataError
from daso_tf.data.text import numbered_lines, read_text

ClassOrder = Sequence[str] | str | os.PathLike[str]


def head_to_tail(
    class_names: Sequence[str],
    counts: np.ndarray,
    class_order: ClassOrder | None = None,
    listed: bool = False,
) -> np.ndarray:
    """Returns the classes from the head to the tail of a long-tailed split.

    Args:
        class_names: K names.
        counts: Images of each class.
        class_order: The names of all classes in this order, or a file with one name per line. By
            default the class with the most images comes first; classes of equal size keep their
            order.
        listed: Whether `class_names` is in this order by default, as in published benchmarks.

    Returns:
        int64 array of shape (K,), each class 0..K-1 once.

    Raises:
        DataError: If `class_order` does not name every class once, or the file cannot be read.

    Example:

    >>> head_to_tail(["ant", "bee", "cat"], np.array([6, 12, 30]))
    array([2, 1, 0])
    >>> head_to_tail(["ant", "bee", "cat"], np.array([6, 12, 30]), ["bee", "cat", "ant"])
    array([1, 2, 0])
    """
    if class_order is not None:
        return _given(class_names, class_order)
    return np.arange(len(class_names)) if listed else np.argsort(-counts, kind="stable")


def _given(class_names: Sequence[str], class_order: ClassOrder) -> np.ndarray:
    if isinstance(class_order, str | os.PathLike):
        source, place = f"class_order={os.fspath(class_order)!r}", "line"
        try:
            names = list(numbered_lines(read_text(class_order)))
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error}.") from error
    else:
        source, place, names = "class_order", "position", list(enumerate(class_order))
    number_of = {name.strip(): k for k, name in enumerate(class_names)}
    order: list[int] = []
    wrong = []
    for number, name in names:
        if name not in number_of:
            wrong.append(f"{place} {number} is {name!r}, which is no class")
        elif number_of[name] in order:
            wrong.append(f"{place} {number} is {name!r} again")
        else:
            order.append(number_of[name])
    wrong += [f"{name!r} is missing" for name, k in number_of.items() if k not in order]
    if wrong:
        raise DataError(
            f"{source} must name each of the {len(class_names)} classes once, the head class "
            f"first, but {'; '.join(wrong[:5])}{' ...' * (len(wrong) > 5)}. The classes are "
            f"{', '.join(map(repr, class_names[:10]))}{', ...' * (len(class_names) > 10)}."
        )
    return np.array(order)
