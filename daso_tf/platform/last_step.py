"""The step after which a run stops early, because it was told to stop."""

from __future__ import annotations


class LastStep:
    """When a run that was told to stop does so.

    The training loop calls `begin` before every execution of the compiled step and `reached` after
    it. A signal handler calls `request`. Both run in different threads.

    Attributes:
        unsaved: Whether there is something to save or to finish before the process may end.
        requested: Whether this process was told to stop.

    Example:

    >>> last_step = LastStep()
    >>> last_step.request()  # nothing was trained, so nothing needs to be saved
    False
    >>> last_step.begin()
    >>> last_step.reached(), last_step.request(), last_step.reached()
    (False, True, True)
    """

    def __init__(self) -> None:
        self.unsaved = False
        self.requested = False

    def request(self) -> bool:
        """Asks the run to stop after the present step.

        Returns:
            False if the process may end at once instead: nothing needs to be saved, or it was asked
            before.
        """
        if self.requested or not self.unsaved:
            return False
        self.requested = True
        return True

    def begin(self) -> None:
        """Notes that an execution of the step begins."""

    def reached(self) -> bool:
        """Returns whether the run stops after the execution that has just ended."""
        self.unsaved = True
        return self.requested
