"""Waits until all workers of a run have started.

TensorFlow waits too, but for hours, and it does not react to signals while it waits.

Every worker connects to the chief and sends one line: the name of the protocol, what identifies the
run, and its rank. When all have done so, the chief answers each with one line. The connections stay
open for `LastStep`. Whatever else connects to the chief is told why it is refused: a port is open
to every program of the network.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from absl import logging

_PROTOCOL = b"daso_tf-1"
_WELCOME = b"welcome"
_TAKEN = b"taken"
_REFUSED = b"refused"
_LONGEST_LINE = 256
_GREETING_SECONDS = 10.0  # for the line of a worker, from the moment it has connected
_MOST_WAITING = 100  # connections that have not sent their line
_RETRY_SECONDS = 0.2
_MOST_REFUSALS = 5  # that a message lists

Connections = dict[int, socket.socket]


class Worker(NamedTuple):
    """One process of a run with many workers.

    Attributes:
        addresses: HOST:PORT of every worker. The first one is the chief's.
        rank: Position of this worker in `addresses`.
    """

    addresses: list[str]
    rank: int


class _Visitor:
    """A connection that the chief has accepted.

    Args:
        connection: The connection.
        address: HOST:PORT of the other side.
        end: When its line must have arrived.
    """

    def __init__(self, connection: socket.socket, address: str, end: float):
        self.connection = connection
        self.address = address
        self.end = end
        self.received = b""
        self.rank: int | None = None  # once its line is accepted


def meet(
    worker: Worker,
    wait_seconds: float,
    identity: str = "",
    now: Callable[[], float] = time.monotonic,
) -> Connections:
    """Returns as soon as all workers have called this function.

    Args:
        worker: This worker.
        wait_seconds: Time to wait for the others, in seconds.
        identity: A word that only the workers of this run have, such as a hash of its settings.
        now: The clock.

    Returns:
        Connections by rank: the chief's to every other worker, and another worker's to the chief.

    Raises:
        TimeoutError: If workers are missing. The message lists their addresses, and what has
            arrived instead.
        ValueError: If the chief has refused this worker.
        OSError: If the chief cannot listen on its address.

    Example:

    >>> meet(Worker(["localhost:0"], rank=0), wait_seconds=1)  # one worker waits for nobody
    {}
    """
    end = now() + wait_seconds
    if worker.rank == 0:
        return _Reception(worker, identity, now).receive(end, wait_seconds)
    return _visit(worker, identity, end, wait_seconds, now)


class _Reception:
    """The chief's part: waits for the line of every other worker, then answers all of them.

    Args:
        worker: The chief.
        identity: As for `meet`.
        now: The clock.
    """

    def __init__(self, worker: Worker, identity: str, now: Callable[[], float]):
        self.addresses = worker.addresses
        self.identity = identity
        self.now = now
        self.selector = selectors.DefaultSelector()
        self.visitors: list[_Visitor] = []
        self.refusals: list[str] = []

    def receive(self, end: float, wait_seconds: float) -> Connections:
        """Returns the connections of all other workers, in blocking mode."""
        try:
            with self.selector, _listening(self.addresses) as server:
                self.selector.register(server, selectors.EVENT_READ)
                while len(self._present()) < len(self.addresses) - 1:
                    if self.now() >= end:
                        raise _timeout(self._missing(), wait_seconds, self.refusals)
                    self._wait(server, end)
            present = self._present()
            for visitor in present.values():
                visitor.connection.setblocking(True)
                with contextlib.suppress(OSError):  # it has just died, as it may at any time
                    visitor.connection.sendall(_WELCOME + b"\n")
            self.visitors = [v for v in self.visitors if v.rank is None]
            return {rank: visitor.connection for rank, visitor in present.items()}
        finally:
            for visitor in self.visitors:
                visitor.connection.close()

    def _present(self) -> dict[int, _Visitor]:
        return {v.rank: v for v in self.visitors if v.rank is not None}

    def _waiting(self) -> list[_Visitor]:
        return [visitor for visitor in self.visitors if visitor.rank is None]

    def _missing(self) -> list[str]:
        present = self._present()
        return [a for rank, a in enumerate(self.addresses) if rank and rank not in present]

    def _wait(self, server: socket.socket, end: float) -> None:
        """Deals with what happens next."""
        next_end = min([end, *(visitor.end for visitor in self._waiting())])
        for key, _ in self.selector.select(max(next_end - self.now(), 0)):
            if key.fileobj is not server:
                self._read(key.data)
            else:
                self._accept(server)
        for position, visitor in enumerate(reversed(self._waiting())):
            if self.now() >= visitor.end or position >= _MOST_WAITING:
                self._refuse(visitor, "no line in time")

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it has left already
            connection, (host, port, *_) = server.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            visitor = _Visitor(connection, f"{host}:{port}", self.now() + _GREETING_SECONDS)
            self.visitors.append(visitor)
            self.selector.register(connection, selectors.EVENT_READ, visitor)

    def _read(self, visitor: _Visitor) -> None:
        try:
            received = visitor.connection.recv(_LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received or visitor.rank is not None:  # it has left, or says more than it should
            self._close(visitor)
            return
        visitor.received += received
        line, newline, rest = visitor.received.partition(b"\n")
        if newline and not rest:
            self._greet(visitor, line)
        elif newline or len(visitor.received) > _LONGEST_LINE:
            self._refuse(visitor, f"{_shown(visitor.received)}, which is not the line of a worker")

    def _greet(self, visitor: _Visitor, line: bytes) -> None:
        protocol, *words = line.split(b" ")
        if protocol != _PROTOCOL or len(words) != 2:
            self._refuse(visitor, f"{_shown(line)}, which is not the line of a worker")
            return
        identity, rank = (word.decode(errors="replace") for word in words)
        if identity != self.identity:
            self._refuse(visitor, f"worker {rank} of another run, or with other flags")
        elif not rank.isdecimal() or not 0 < int(rank) < len(self.addresses):
            self._refuse(visitor, f"worker {rank}, but there are 1 to {len(self.addresses) - 1}")
        elif int(rank) in (present := self._present()):
            other = present[int(rank)].address
            self._refuse(visitor, f"worker {rank}, which {other} is already", _TAKEN)
        else:
            visitor.rank = int(rank)

    def _refuse(self, visitor: _Visitor, reason: str, answer: bytes = _REFUSED) -> None:
        if len(self.refusals) < _MOST_REFUSALS:
            self.refusals.append(f"{visitor.address} sent {reason}")
            logging.warning("Refused a connection: %s", self.refusals[-1])
        with contextlib.suppress(OSError):
            visitor.connection.send(answer + b" " + reason.encode()[: _LONGEST_LINE // 2] + b"\n")
        self._close(visitor)

    def _close(self, visitor: _Visitor) -> None:
        self.selector.unregister(visitor.connection)
        self.visitors.remove(visitor)
        visitor.connection.close()


@contextlib.contextmanager
def _listening(addresses: list[str]) -> Iterator[socket.socket]:
    """Listens on the chief's own address.

    If its name is not an address of this machine, as with a forwarded port, or one that only this
    machine can reach while other machines take part, it listens on all addresses.
    """
    host, port = _split(addresses[0])
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    elsewhere = any(_split(other)[0] != host for other in addresses)
    reachable = not (elsewhere and str(address[0]).startswith(("127.", "::1")))
    try:
        server = socket.create_server((address[0] if reachable else "", port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        server = socket.create_server(("", port), family=family)
    with server:
        server.setblocking(False)
        yield server


def _visit(
    worker: Worker, identity: str, end: float, wait_seconds: float, now: Callable[[], float]
) -> Connections:
    """The other workers' part: connects to the chief again and again until it answers."""
    address = worker.addresses[0]
    greeting = b" ".join([_PROTOCOL, identity.encode(), b"%d\n" % worker.rank])
    found: list[str] = []
    while (left := end - now()) > 0:
        with contextlib.ExitStack() as stack:
            try:
                chief = stack.enter_context(socket.create_connection(_split(address), left))
                chief.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                chief.sendall(greeting)
                answer = _line(chief, end, now)
            except OSError:  # the chief has not started yet, or has stopped
                answer = b""
            kind, _, reason = answer.partition(b" ")
            if kind == _WELCOME:
                chief.settimeout(None)
                stack.pop_all()  # it stays open
                return {0: chief}
            if kind == _REFUSED:
                raise ValueError(
                    f"The chief, {address}, has refused this worker: it is {_shown(reason)}. Give "
                    "all workers the same flags."
                )
            if answer:
                found = [f"{address} sent {_shown(answer)}"]
        time.sleep(min(_RETRY_SECONDS, max(end - now(), 0)))
    raise _timeout([address, "or workers that it waits for"], wait_seconds, found)


def _line(connection: socket.socket, end: float, now: Callable[[], float]) -> bytes:
    """Returns what the other side sends, up to the end of a line or the longest length."""
    received = b""
    while b"\n" not in received and len(received) < _LONGEST_LINE:
        connection.settimeout(max(end - now(), 0.001))
        more = connection.recv(_LONGEST_LINE - len(received))
        if not more:
            break
        received += more
    return received.partition(b"\n")[0]


def _split(address: str) -> tuple[str, int]:
    """Returns host and port of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)  # IPv6 addresses are in brackets


def _shown(received: bytes) -> str:
    return repr(received[:40].decode(errors="replace")) + ("..." if len(received) > 40 else "")


def _timeout(missing: list[str], wait_seconds: float, refusals: list[str]) -> TimeoutError:
    arrived = f" Refused: {'; '.join(refusals)}." if refusals else ""
    return TimeoutError(
        f"After {wait_seconds:g} s these workers are missing: {', '.join(missing)}.{arrived} "
        "Start the same command on every worker, each with its own TF_CONFIG."
    )
