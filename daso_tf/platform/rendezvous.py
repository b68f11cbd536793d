"""Waits until all workers of a run have started.

TensorFlow waits too, but for hours, and it does not react to signals while it waits.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

_GREETING = b"daso_tf worker "
_RETRY_SECONDS = 0.2


class Worker(NamedTuple):
    """One process of a run with many workers.

    Attributes:
        addresses: HOST:PORT of every worker. The first one is the chief's.
        rank: Position of this worker in `addresses`.
    """

    addresses: list[str]
    rank: int


def meet(worker: Worker, wait_seconds: float) -> None:
    """Returns as soon as all workers have called this function.

    Every worker connects to the address of the chief. When all are connected, the chief answers
    them.

    Args:
        worker: This worker.
        wait_seconds: Time to wait for the others, in seconds.

    Raises:
        TimeoutError: If workers are missing. The message lists their addresses.
        OSError: If the chief cannot listen on its address.

    Example:

    >>> meet(Worker(["localhost:0"], rank=0), wait_seconds=1)  # one worker waits for nobody
    """
    end = time.monotonic() + wait_seconds
    if worker.rank == 0:
        _receive(worker.addresses, end, wait_seconds)
    else:
        _visit(worker, end, wait_seconds)


def _receive(addresses: Sequence[str], end: float, wait_seconds: float) -> None:
    """The chief's part: waits for one connection per other worker, then answers them."""
    port = int(addresses[0].rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", port)))
        visitors: dict[int, socket.socket] = {}
        while len(visitors) < len(addresses) - 1:
            server.settimeout(max(end - time.monotonic(), 0.001))
            try:
                visitor = stack.enter_context(server.accept()[0])
                visitor.settimeout(max(end - time.monotonic(), 0.001))
                greeting = visitor.makefile("rb").readline()
            except TimeoutError:
                missing = [
                    address
                    for rank, address in enumerate(addresses)
                    if rank and rank not in visitors
                ]
                raise _timeout(missing, wait_seconds) from None
            except ConnectionError:
                continue
            rank = greeting.removeprefix(_GREETING).strip()
            if rank.isdigit():  # otherwise another program has connected
                visitors[int(rank)] = visitor
        for visitor in visitors.values():
            visitor.sendall(b"\n")


def _visit(worker: Worker, end: float, wait_seconds: float) -> None:
    """The other workers' part: connects to the chief again and again until it answers."""
    host, _, port = worker.addresses[0].rpartition(":")
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, int(port)), timeout=left) as chief:
                chief.sendall(_GREETING + b"%d\n" % worker.rank)
                if chief.recv(1):
                    return
        except OSError:  # the chief has not started yet, or has stopped
            pass
        time.sleep(min(_RETRY_SECONDS, max(end - time.monotonic(), 0)))
    raise _timeout([worker.addresses[0], "or workers that it waits for"], wait_seconds)


def _timeout(missing: Sequence[str], wait_seconds: float) -> TimeoutError:
    return TimeoutError(
        f"After {wait_seconds:g} s these workers are missing: {', '.join(missing)}. "
        "Start the same command on every worker, each with its own TF_CONFIG."
    )
