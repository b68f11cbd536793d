"""Errors in the data, and how many unreadable image files are allowed."""

import threading

from absl import logging


class DataError(ValueError):
    """The data cannot be used as requested; the message says what was found and what to do.

    Example:

    >>> try:
    ...     daso_tf.data.load("digits", labeled_head=-1)
    ... except daso_tf.data.DataError as error:
    ...     print(error)
    labeled_head=-1; it must be 0 or more.
    """


class UnreadableFiles:
    """Counts image files that cannot be read, logs each of them, and stops at a limit.

    Args:
        limit: Number of files that may be left out.
        reason: Why no more are allowed. It ends the sentence "N image files cannot be read, and".

    Attributes:
        messages: What is wrong with each file, in the order in which they were found.
        failure: The `DataError` that was raised when the limit was exceeded; None before that.

    Example:

    >>> unreadable = UnreadableFiles(limit=0, reason="all images must be readable")
    >>> unreadable.add(DataError("'a.jpg' is empty."))
    Traceback (most recent call last):
        ...
    daso_tf.data.errors.DataError: 1 image file cannot be read, and all images must be readable:
      'a.jpg' is empty.
    """

    def __init__(self, limit: int, reason: str):
        self.limit = limit
        self.reason = reason
        self.messages: list[str] = []
        self.failure: DataError | None = None
        self._lock = threading.Lock()  # files are read in parallel

    def add(self, *errors: DataError) -> None:
        """Counts unreadable files.

        Args:
            *errors: One error per file.

        Raises:
            DataError: If the limit is exceeded; the message names the first files.
        """
        with self._lock:
            for error in errors:
                if str(error) in self.messages:  # two threads read the same file
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
