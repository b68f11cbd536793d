"""Waiting for the other workers before TensorFlow does, which would wait for hours, deaf to all."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import NamedTuple

_MEETING = b"daso_tf worker "
_RETRY_SECONDS = 0.2


class Worker(NamedTuple):
    """One of the processes of a run.

    Attributes:
        addresses: HOST:PORT of every worker; the first is the chief's.
        rank: which of them this one is.
    """

    addresses: list[str]
    rank: int


def meet(worker: Worker, wait_seconds: float) -> None:
    """Returns in every worker once all of them are there.

    The workers come to the chief, at its own address, and it lets all of them go at once.

    Args:
        worker: this one.
        wait_seconds: how long to wait.

    Raises:
        TimeoutError: with the addresses of those that are missing.
        OSError: the chief cannot use its address.
    """
    end = time.monotonic() + wait_seconds
    if worker.rank == 0:
        _receive(worker.addresses, end, wait_seconds)
    else:
        _visit(worker, end, wait_seconds)


def _receive(addresses: list[str], end: float, wait_seconds: float) -> None:
    """The chief's part: waits for a connection of each of the others, then answers all of them."""
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
                raise _late(missing, wait_seconds) from None
            except ConnectionError:
                continue
            rank = greeting.removeprefix(_MEETING).strip()
            if rank.isdigit():  # otherwise somebody else has come
                visitors[int(rank)] = visitor
        for visitor in visitors.values():
            visitor.sendall(b"\n")


def _visit(worker: Worker, end: float, wait_seconds: float) -> None:
    """The others' part: comes to the chief again and again, until it answers."""
    host, _, port = worker.addresses[0].rpartition(":")
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, int(port)), timeout=left) as chief:
                chief.sendall(_MEETING + b"%d\n" % worker.rank)
                if chief.recv(1):
                    return
        except OSError:  # it is not there yet, or has gone away
            pass
        time.sleep(min(_RETRY_SECONDS, max(end - time.monotonic(), 0)))
    raise _late([worker.addresses[0], "or others that it waits for"], wait_seconds)


def _late(missing: list[str], wait_seconds: float) -> TimeoutError:
    return TimeoutError(
        f"Not all workers have come within {wait_seconds:g} s, missing: {', '.join(missing)}. "
        "Start the same command on all of them, each with its own TF_CONFIG."
    )
