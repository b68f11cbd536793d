"""Parts of a learner that are given by name: `pseudo_labeler="daso"`, `threshold="flexmatch"`.

The names and the arguments of the parts are those of the command line. `daso_tf.settings.methods`
has them and registers here how to make a part; this package is below it and cannot ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from daso_tf.data import SemiSupervisedData


class Known(NamedTuple):
    """What a part by name may be made from.

    Attributes:
        learner: The class of the learner, which has defaults of its own for some parts.
        data: The data that the learner will be trained on, or None.
        total_steps: Steps of the whole training, or None.
        resolution: Side in pixels of the encoder's input.
        num_classes: K.
    """

    learner: type
    data: SemiSupervisedData | None
    total_steps: int | None
    resolution: int
    num_classes: int


class _Kind(NamedTuple):
    names: Collection[str]
    make: Callable[[str, Known], Any]


_KINDS: dict[str, _Kind] = {}


def register(argument: str, names: Collection[str], make: Callable[[str, Known], Any]) -> None:
    """Registers how to make the parts of one kind.

    Args:
        argument: The argument of the learner, such as `"threshold"`.
        names: The names of the parts.
        make: Makes the part of a name.
    """
    _KINDS[argument] = _Kind(names, make)


def part(argument: str, given: Any, known: Callable[[], Known]) -> Any:
    """Returns the part that a name stands for; everything else is returned as it is.

    Args:
        argument: The argument of the learner, such as `"threshold"`.
        given: A name, or a part.
        known: Returns what the part may be made from.

    Raises:
        ValueError: If there is no part of that name, or it needs something that is not known.
    """
    if not isinstance(given, str):
        return given
    kind = _KINDS[argument]
    if given not in kind.names:
        raise ValueError(
            f"There is no {argument} {given!r}. Allowed: {', '.join(kind.names)}, or an object."
        )
    return kind.make(given, known())
