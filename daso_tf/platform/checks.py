"""Checks of constructor arguments: one wording for all parts and learners."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def checked_number(
    name: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Returns a number as a float if it is finite and in its range.

    Args:
        name: Name of the argument, for the message.
        value: The number.
        least: The smallest value allowed.
        above: The value must be above this number; give `least` or `above`, not both.
        most: The largest value allowed.
        below: The value must be below this number; give `most` or `below`, not both.

    Raises:
        ValueError: If the number is outside its range or not finite.

    Example:

    >>> checked_number("momentum", 1.0, least=0, below=1)
    Traceback (most recent call last):
    ...
    ValueError: momentum must be in [0, 1), not 1.0.
    """
    fits = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if fits:
        return float(value)
    lower = f"({above}" if least is None else f"[{least}"
    if most is not None:
        allowed = f"in {lower}, {most}]"
    elif below is not None:
        allowed = f"in {lower}, {below})"
    else:
        allowed = f"above {above}" if least is None else f"at least {least}"
        allowed += " and finite" if value == math.inf else ""
    raise ValueError(f"{name} must be {allowed}, not {value}.")


def checked_whole_number(name: str, value: float, least: int, most: int | None = None) -> int:
    """Returns a number as an int if it is whole and large enough.

    Args:
        name: Name of the argument, for the message.
        value: The number; a float such as 1e4 counts as whole.
        least: The smallest value allowed.
        most: The largest value allowed.

    Raises:
        ValueError: If the number is outside its range or not whole.

    Example:

    >>> checked_whole_number("total_steps", 1e4, least=1)
    10000
    >>> checked_whole_number("total_steps", 0, least=1)
    Traceback (most recent call last):
    ...
    ValueError: total_steps must be at least 1, not 0.
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    if not math.isfinite(value) or value != int(value):
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value}.")
    if most is not None and value > most:
        raise ValueError(f"{name} must be a whole number in [{least}, {most}], not {value}.")
    return int(value)


def checked_counts(labeled_counts: Sequence[int]) -> tuple[int, ...]:
    """Returns the labeled images of each class as a tuple.

    Args:
        labeled_counts: Labeled images of each class, K numbers.

    Raises:
        ValueError: If there are fewer than two classes, or a class has no images or no whole
            number of them.

    Example:

    >>> checked_counts([40, 10])
    (40, 10)
    """
    counts = list(labeled_counts)
    whole = all(math.isfinite(count) and count == int(count) for count in counts)
    if len(counts) < 2 or not whole or min(counts) < 1:
        raise ValueError(
            "labeled_counts must be the labeled images of two classes or more, at least 1 for "
            f"every class, not {counts}."
        )
    return tuple(int(count) for count in counts)


def checked_distribution(name: str, distribution: Sequence[float]) -> tuple[float, ...]:
    """Returns a class distribution as a tuple of floats.

    Args:
        name: Name of the argument, for the message.
        distribution: K numbers of at least 0, in any scale.

    Raises:
        ValueError: If there are fewer than two classes, a number is below 0 or not finite, or all
            numbers are 0.

    Example:

    >>> checked_distribution("class_distribution", [3, 1])
    (3.0, 1.0)
    """
    shares = tuple(float(share) for share in distribution)
    # Not min(shares), which a nan that comes later does not change.
    fits = all(0 <= share < math.inf for share in shares)
    if len(shares) < 2 or not fits or not 0 < sum(shares) < math.inf:
        raise ValueError(
            f"{name} must be one number of at least 0 for each of two classes or more, not all of "
            f"them 0, not {list(shares)}."
        )
    return shares


def checked_channel_statistics(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns mean and standard deviation of the color channels as tuples of floats.

    Args:
        mean: Mean of each of the three channels, in [0, 1].
        std: Standard deviation of each channel, in (0, 1].

    Raises:
        ValueError: If there are not three numbers each, or a number is outside its range.

    Example:

    >>> checked_channel_statistics([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> checked_channel_statistics([0.5, 0.5, 0.5], [0, 1, 1])
    Traceback (most recent call last):
    ...
    ValueError: std must be three numbers in (0, 1], one per channel, not (0.0, 1.0, 1.0).
    """
    return (
        _checked_channels("mean", mean, "[0, 1]", lambda value: 0 <= value <= 1),
        _checked_channels("std", std, "(0, 1]", lambda value: 0 < value <= 1),
    )


def _checked_channels(
    name: str, values: Sequence[float], interval: str, fits: Callable[[float], bool]
) -> tuple[float, float, float]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) == 3 and all(map(fits, numbers)):
        return numbers
    hint = " Divide statistics of values 0 to 255 by 255." if max(numbers, default=0) > 1 else ""
    raise ValueError(
        f"{name} must be three numbers in {interval}, one per channel, not {numbers}.{hint}"
    )
