"""One thread of the process that writes files while the others compute."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

# Python ends a process only after such a thread has done all that it was given.
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")


class Background:
    """Does one task at a time in the thread in the background.

    Example:

    >>> background, written = Background(), []
    >>> background.start(lambda: written.append("a file"))
    >>> background.wait()
    >>> written
    ['a file']
    """

    def __init__(self) -> None:
        self._task: Future | None = None

    def start(self, task: Callable[[], object]) -> None:
        """Starts a task, after the one before is done.

        Args:
            task: Called in another thread.

        Raises:
            Exception: That of the task before. The new one is then not started.
        """
        self.wait()
        self._task = _THREAD.submit(task)

    def check(self) -> None:
        """Raises the error of a task that has failed already; waits for nothing."""
        if self._task is not None and self._task.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the task is done.

        Raises:
            Exception: That of the task, once.
        """
        if self._task is not None:
            wait([self._task])
            task, self._task = self._task, None
            task.result()


def finish() -> None:
    """Returns when all tasks of the process are done, whatever their result."""
    with contextlib.suppress(RuntimeError):  # the process ends, and Python waits for the thread
        _THREAD.submit(lambda: None).result()
