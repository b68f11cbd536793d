"""The one place that decides which learner and which parts can be combined.

A part is what a learner is given: a pseudo-labeler, a threshold, a balanced head, a distribution
alignment. Learners and parts say two things of themselves as class attributes:

- `asks_for`, names of what they need from the others: `"positions"`, `"margins"`, ...
- `refuses`, what they cannot be combined with and why, by the name of an argument of the learner
  (`"threshold"`) or of something that another one asks for (`"margins"`). A part that refuses an
  argument, or `"balance"`, goes with the plain parts only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from daso_tf.balance import SupervisedLoss
from daso_tf.pseudo_labels import LinearPseudoLabeler
from daso_tf.thresholds import FixedThreshold

# What a learner does without a choice: nothing that another part could refuse.
_PLAIN = (LinearPseudoLabeler, FixedThreshold, SupervisedLoss)
# The arguments whose parts counter the imbalance of the labeled images.
_BALANCE = ("supervised_loss", "balanced_head")


class Conflict(NamedTuple):
    """Two classes that cannot be combined.

    Attributes:
        one: The class that is refused.
        other: The class that refuses it.
        reason: Why, a clause without a full stop.
    """

    one: type
    other: type
    reason: str

    def __str__(self) -> str:
        return f"{self.one.__name__} does not go with {self.other.__name__}: {self.reason}."


def conflicts(learner: Any, parts: Mapping[str, type | None]) -> Iterator[Conflict]:
    """Yields what cannot be combined; nothing where everything can.

    Args:
        learner: A subclass of `Learner`.
        parts: The class of each part by the name of the learner's argument; None for no part.

    Example:

    >>> from daso_tf.pseudo_labels import DASOPseudoLabeler
    >>> [str(c) for c in conflicts(daso_tf.Supervised, {"pseudo_labeler": DASOPseudoLabeler})]
    ['DASOPseudoLabeler does not go with Supervised: it learns from the labeled images alone.']
    """
    given: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
    for name, part in given.items():
        if part is not getattr(learner, "own_pseudo_labeler", None) and name in learner.refuses:
            yield Conflict(part, learner, learner.refuses[name])
    for name, part in given.items():
        asked = {name, "balance"} if name in _BALANCE else {name}
        for other in given.values():
            reasons = [
                other.refuses[n] for n in sorted(asked) if n in getattr(other, "refuses", ())
            ]
            if reasons and other is not part and part not in _PLAIN:
                yield Conflict(part, other, reasons[0])
    for one, other in itertools.permutations([learner, *given.values()], 2):
        for name in sorted(getattr(one, "asks_for", ())):
            if name in getattr(other, "refuses", ()):
                yield Conflict(one, other, other.refuses[name])  # type: ignore[attr-defined]


def check(learner: type, **parts: Any) -> None:
    """Raises a ValueError with the first conflict between a learner and its parts.

    Args:
        learner: A subclass of `Learner`.
        **parts: Each part by the name of the learner's argument; None for no part.
    """
    types = {name: None if part is None else type(part) for name, part in parts.items()}
    for conflict in conflicts(learner, types):
        raise ValueError(str(conflict))
