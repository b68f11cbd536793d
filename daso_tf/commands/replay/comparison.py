"""How far a replay lies from its recording, key by key, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# The largest allowed deviation of each kind of quantity, relative to the largest absolute value
# that was recorded.
LOSS = 1e-3
GRADIENT_NORM = 5e-3
SOFT = 1e-3  # soft targets, confidences, prototypes and logits of a network
FINAL = 1e-2  # weights after the last step, relative to the distance that they moved
REFINED = 3e-4  # DARP's; the authors stop its iterations elsewhere
REFINED_ONE_HOT = 1e-2  # the same for nearly one-hot predictions
_ONE_HOT = 0.9  # mean confidence from which predictions count as nearly one-hot
FLOAT = 2e-5  # numbers that are computed without a network
EXACTLY = 0.0  # classes, masks, counts
NOT_JUDGED = None  # of another implementation: shown, without consequence


class UnknownRecordingError(ValueError):
    """The file is none of the recordings that `replay` can repeat."""


class Quantity(NamedTuple):
    """How far one recorded quantity was missed.

    Attributes:
        name: Its key in the recording.
        deviation: The largest absolute difference over all steps, divided by the largest absolute
            recorded value.
        tolerance: The largest allowed deviation, 0 for equality; None if it is not judged.
    """

    name: str
    deviation: float
    tolerance: float | None

    @property
    def within(self) -> bool:
        """Whether it is within its tolerance; a deviation that is not a number is not."""
        return self.tolerance is None or self.deviation <= self.tolerance

    @property
    def share(self) -> float:
        """The deviation relative to its tolerance."""
        if self.tolerance is None or self.deviation == 0:
            return 0.0
        share = self.deviation / (self.tolerance or 1e-9)
        return float("inf") if np.isnan(share) else share


class Difference(NamedTuple):
    """Behavior of the recorded implementation that the library does not follow, by design.

    Attributes:
        reason: What the library does, and what the recorded implementation does.
        affected: Names of the quantities that may deviate for this reason.
        applied: The same quantities, replayed with the behavior of the recorded implementation.
            All must be within their tolerances; otherwise the deviation has another cause.
    """

    reason: str
    affected: frozenset[str]
    applied: tuple[Quantity, ...]


class Result(NamedTuple):
    """What a replay found.

    Attributes:
        method: The method that was recorded.
        quantities: All compared quantities.
        difference: The difference by design, if the recording has one.
        unread: Keys of its steps that were not compared.
    """

    method: str
    quantities: tuple[Quantity, ...]
    difference: Difference | None = None
    unread: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether a quantity deviates by design, and for no other reason."""
        difference = self.difference
        if difference is None or not all(quantity.within for quantity in difference.applied):
            return False
        return any(not q.within and q.name in difference.affected for q in self.quantities)

    @property
    def exceeded(self) -> list[Quantity]:
        """The quantities outside their tolerances, without those that differ by design."""
        excused = self.difference.affected if self.difference and self.differs else frozenset()
        return [q for q in self.quantities if not q.within and q.name not in excused]


def worst(quantities: Iterable[Quantity]) -> Quantity:
    """Returns the judged quantity with the largest deviation relative to its tolerance."""
    judged = [quantity for quantity in quantities if quantity.tolerance is not None]
    return max(judged, key=lambda quantity: quantity.share)


def refined_tolerance(predictions: np.ndarray) -> float:
    """Returns the tolerance of DARP's refinement, which is larger for nearly one-hot predictions.

    Args:
        predictions: float `(N, K)`, what was refined.
    """
    return REFINED_ONE_HOT if predictions.max(axis=1).mean() > _ONE_HOT else REFINED


class Comparison:
    """Collects recorded and replayed values by name.

    Example:

    >>> comparison = Comparison()
    >>> comparison.add("loss", [1.0, 2.5], [1.0, 2.0], tolerance=1e-3)
    >>> comparison.quantities()
    (Quantity(name='loss', deviation=0.25, tolerance=0.001),)
    """

    def __init__(self) -> None:
        self._differences: dict[str, float] = {}
        self._scales: dict[str, float] = {}
        self._tolerances: dict[str, float | None] = {}

    def add(self, name: str, ours: object, recorded: object, tolerance: float | None) -> None:
        """Compares two arrays; several calls with one name count as one quantity.

        Args:
            name: Key of the quantity.
            ours: What the library computed.
            recorded: What the recording has, of the same shape. Another shape deviates infinitely.
            tolerance: As for `Quantity`; that of the last call counts.
        """
        computed, expected = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
        difference = np.inf
        if computed.shape == expected.shape:
            difference = np.max(np.abs(computed - expected), initial=0.0)
        # np.maximum keeps what is not a number; max does not.
        self._differences[name] = float(np.maximum(self._differences.get(name, 0.0), difference))
        scale = np.max(np.abs(expected), initial=0.0)
        self._scales[name] = float(np.maximum(self._scales.get(name, 0.0), scale))
        self._tolerances[name] = tolerance

    def add_weights(
        self,
        name: str,
        pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
        tolerance: float | None = FINAL,
    ) -> None:
        """Compares weights, relative to the distance that the recorded ones moved.

        Args:
            name: Name of the quantity.
            pairs: Replayed, recorded and initial value of every weight.
            tolerance: As for `Quantity`.
        """
        difference = distance = 0.0
        for ours, recorded, initial in pairs:
            recorded = recorded.astype(np.float64)
            difference += np.sum((ours - recorded) ** 2)
            distance += np.sum((recorded - initial) ** 2)
        self._differences[name] = float(np.sqrt(difference))
        self._scales[name] = float(np.sqrt(distance))
        self._tolerances[name] = tolerance

    def quantities(self) -> tuple[Quantity, ...]:
        """Returns the deviations in the order in which the names were first added."""
        return tuple(
            Quantity(name, difference / (self._scales[name] or 1.0), self._tolerances[name])
            for name, difference in self._differences.items()
        )
