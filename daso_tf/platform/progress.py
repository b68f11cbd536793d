"""Lines of text that say how far a long computation is."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Says how much is computed and how long the rest will take, every few seconds.

    Args:
        total: Number of views.
        report: Called with lines of text.
        clock: Returns the time in seconds.
        interval: Least number of seconds between two lines; the first comes earlier.
    """

    def __init__(
        self,
        total: int,
        report: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        interval: float = 15.0,
    ):
        self._total, self._report, self._clock, self._interval = total, report, clock, interval
        self._done = self._counted_from = 0
        self._start = self._counted_since = self._last = clock()

    def add(self, views: int) -> None:
        """Counts views that are computed."""
        now, first = self._clock(), not self._done
        self._done += views
        if first:  # the first piece waits for the function to be traced
            self._counted_from, self._counted_since = self._done, now
            self._last = now - self._interval + 3
        elif now - self._last >= self._interval:
            self._last = now
            rate = (self._done - self._counted_from) / (now - self._counted_since)
            left = (self._total - self._done) / rate
            self._report(
                f"  {bar(self._done / self._total)} {self._done:,} of {self._total:,} views, "
                f"{rate:,.0f} per second, about {duration(left)} left"
            )

    def finish(self) -> None:
        """Reports the end."""
        passed = self._clock() - self._start
        self._report(
            f"  {bar(1.0)} {self._done:,} views in {duration(passed)}, "
            f"{self._done / max(passed, 1e-9):,.0f} per second"
        )


def bar(share: float) -> str:
    """Returns a bar of twenty characters.

    Args:
        share: How much of it is full, in [0, 1].

    Example:

    >>> bar(0.25)
    '[=====...............]'
    """
    full = round(20 * share)
    return f"[{'=' * full}{'.' * (20 - full)}]"


def duration(seconds: float) -> str:
    """Returns a time in words.

    Args:
        seconds: At least 0.

    Example:

    >>> duration(42.4), duration(125)
    ('42 s', '2 min 5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
