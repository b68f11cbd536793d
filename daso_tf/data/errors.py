"""What cannot be used of the data, and how much of that is put up with."""

import threading

from absl import logging


class DataError(ValueError):
    """The data cannot be used as asked; the message says what was found and what to do."""


class UnreadableFiles:
    """Counts image files that cannot be read, names each in the log, and stops at a limit.

    Args:
        limit: files that may be left out.
        reason: why there may not be more, the end of a sentence that says how many there are.

    Attributes:
        messages: what is wrong with each file, in the order they were found.
        failure: the DataError that was raised when the limit was passed; None before.

    Example:

    >>> unreadable = UnreadableFiles(limit=0, reason="test images have to be complete")
    >>> unreadable.add(DataError("'a.jpg' is empty."))
    Traceback (most recent call last):
        ...
    daso_tf.data.errors.DataError: 1 image file cannot be read, and test images have to be complete:
      'a.jpg' is empty.
    """

    def __init__(self, limit: int, reason: str):
        self.limit = limit
        self.reason = reason
        self.messages: list[str] = []
        self.failure: DataError | None = None
        self._lock = threading.Lock()  # files are read in parallel

    def add(self, *errors: DataError) -> None:
        """Counts files.

        Args:
            *errors: what is wrong with each of them.

        Raises:
            DataError: there are more than the limit now; names the first of them.
        """
        with self._lock:
            for error in errors:
                if str(error) in self.messages:  # two readers met the same file
                    continue
                self.messages.append(str(error))
                count = len(self.messages)
                if count <= self.limit:
                    logging.warning("Left out, %d of %d allowed: %s", count, self.limit, error)
            if len(self.messages) > self.limit:
                self._fail()

    def _fail(self) -> None:
        count = len(self.messages)
        files = f"{count} image file{'s' * (count > 1)}"
        more = f"\n  ... and {count - 5} more." if count > 5 else ""
        shown = "\n  ".join(self.messages[:5])
        self.failure = DataError(f"{files} cannot be read, and {self.reason}:\n  {shown}{more}")
        raise self.failure
