"""What a command does when it receives SIGINT (Ctrl-C) or SIGTERM.

It ends at once, with one line and exit code 130 or 143, unless it has something to finish first.
What is being written in the background is finished, unless a second signal comes. Files are
complete or absent at any moment, so nothing else needs to be cleaned up.

An exception that a signal handler raises can be swallowed or wrapped wherever TensorFlow calls
Python, and Python runs handlers only when the main thread is not in a long call, such as a
compilation. So a thread waits for signals and ends the process itself. Only commands do this;
programs that import the library keep their own handlers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from daso_tf.platform import background

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_LINES = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}
_FLUSH_SECONDS = 1.0  # the reader of a pipe may have stopped reading
_WRITE_SECONDS = 60.0  # a disk may have stopped writing


class _State:
    watched = False  # whether the thread exists
    descriptor = 2  # where the line is written
    hint = ""
    takes: Callable[[int], bool] | None = None
    ending = False  # whether a signal has come that ends the process


def watch() -> None:
    """Ends this process at once on SIGINT and SIGTERM, for the rest of its life.

    A signal that the process was started to ignore, as `nohup` and shells do, stays ignored.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in EXIT_CODES:
        if signal.getsignal(number) != signal.SIG_IGN:
            # Python writes to the descriptor only for signals that have a handler.
            signal.signal(number, lambda number, frame: None)
    threading.Thread(target=_read, args=(read,), name="signals", daemon=True).start()
    _State.watched = True


def exit_with(code: int) -> NoReturn:
    """Exits with a code that signals do not change anymore, because the command has ended.

    Python would end with another code on a signal while it removes its objects.

    Args:
        code: The exit code.
    """
    if _State.watched:
        for number in EXIT_CODES:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


@contextlib.contextmanager
def written_to(descriptor: int) -> Iterator[None]:
    """Writes the line to another descriptor in this context, where 2 is redirected."""
    _State.descriptor = descriptor
    try:
        yield
    finally:
        _State.descriptor = 2


@contextlib.contextmanager
def taken_by(takes: Callable[[int], bool], hint: str = "") -> Iterator[None]:
    """Gives signals to a function in this context.

    In a process without `watch` this concerns SIGTERM only, and its handler is restored at the end.

    Args:
        takes: Gets the number of the signal. If it returns False, the process ends at once.
        hint: What to do next, for the end of the line.
    """
    before = None
    if not _State.watched and threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, lambda number, frame: _handle(number))
    _State.takes, _State.hint = takes, hint
    try:
        yield
    finally:
        _State.takes, _State.hint = None, ""
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def reinstall() -> None:
    """Installs the handler of SIGTERM again after TensorFlow has replaced it.

    The handler of `tf.distribute.MultiWorkerMirroredStrategy` only records the signal.
    """
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def line_of(number: int, hint: str = "") -> str:
    """Returns what a command prints when a signal has ended it.

    Args:
        number: The signal.
        hint: What to do next.

    Example:

    >>> line_of(signal.SIGINT, "the same command continues")
    'interrupted; the same command continues'
    """
    return "; ".join(text for text in (_LINES[signal.Signals(number)], hint) if text)


def _read(descriptor: int) -> None:
    while True:
        for number in os.read(descriptor, 16):
            if number in EXIT_CODES:
                # In a thread of its own: the next signal must not wait for what this one finishes.
                threading.Thread(target=_handle, args=(number,), daemon=True).start()


def _handle(number: int) -> None:
    if _State.takes is not None and _State.takes(number):
        return
    if not _State.ending:
        _State.ending = True
        for task, seconds in ((_flush, _FLUSH_SECONDS), (background.finish, _WRITE_SECONDS)):
            thread = threading.Thread(target=task, daemon=True)
            thread.start()
            thread.join(seconds)
    os.write(_State.descriptor, f"daso-tf: {line_of(number, _State.hint)}\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])


def _flush() -> None:
    with contextlib.suppress(Exception):  # such as a closed pipe
        sys.stdout.flush()
