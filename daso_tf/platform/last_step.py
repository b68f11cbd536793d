"""The step after which a run stops early, because one of its processes was told to stop.

All workers of a run must stop after the same step: each waits for the others in every step. They
agree through the connections of the rendezvous. The chief asks all workers to begin no execution of
the step and to tell how many they have begun, and then names the last one: the one after the
largest number. Nothing is exchanged before, so it costs nothing per step.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping

_LONGEST_LINE = 32


class LastStep:
    """When a run that was told to stop does so.

    The training loop calls `begin` before every execution of the compiled step and `reached` after
    it. A signal handler calls `request`.

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
        self._connections: dict[int, socket.socket] = {}
        self._changed = threading.Condition()  # protects what follows
        self._begun = 0
        self._begun_by: dict[int, int] = {}
        self._frozen = False
        self._lost = False
        self._last: int | None = None

    def connect(self, connections: Mapping[int, socket.socket]) -> None:
        """Agrees with other workers from now on.

        Args:
            connections: What `rendezvous.meet` returned.
        """
        self._connections = dict(connections)
        for rank, connection in connections.items():
            threading.Thread(
                target=self._listen, args=(rank, connection), name="last step", daemon=True
            ).start()

    def request(self) -> bool:
        """Asks the run to stop soon.

        Returns:
            False if the process may end at once instead: nothing needs to be saved, or it was asked
            before.
        """
        busy = self._begun if self._connections else self.unsaved
        if self.requested or self._lost or not busy:
            return False
        self.requested = True
        if self._connections:
            # The thread of a signal handler may hold the lock.
            threading.Thread(target=self._ask, daemon=True).start()
        return True

    def begin(self) -> None:
        """Notes that an execution of the step begins."""
        with self._changed:
            while self._frozen:
                self._changed.wait()
            self._begun += 1

    def reached(self) -> bool:
        """Returns whether the run stops after the execution that has just ended."""
        self.unsaved = True
        if self._last is not None:
            return self._begun >= self._last
        return self.requested and not self._connections

    @property
    def _is_chief(self) -> bool:
        return 0 not in self._connections

    def _ask(self) -> None:
        with self._changed:
            if self._is_chief:
                self._freeze()
            else:
                self._send("stop")

    def _freeze(self) -> None:
        """The chief's first part."""
        if self._begun_by:  # this has happened already
            return
        self._frozen = True
        self._begun_by = {0: self._begun}
        self._send("freeze")

    def _listen(self, rank: int, connection: socket.socket) -> None:
        """Deals with what another worker says, until it is gone."""
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            while line := lines.readline(_LONGEST_LINE):
                with self._changed:
                    self._heard(rank, line.decode().split())
        with self._changed:
            self._disconnect()

    def _heard(self, rank: int, words: list[str]) -> None:
        match words:
            case ["stop"] if self._is_chief:
                self._freeze()
            case ["begun", number] if self._is_chief:
                self._begun_by[rank] = int(number)
                if len(self._begun_by) > len(self._connections):
                    # One worker may be between two executions, so the largest number is too early.
                    last = max(self._begun_by.values()) + 1
                    self._send(f"last {last}")
                    self._stop_after(last)
            case ["freeze"] if rank == 0:
                self._frozen = True
                self._send(f"begun {self._begun}")
            case ["last", number] if rank == 0:
                self._stop_after(int(number))
            case _:
                raise ValueError(f"{words} is not part of the protocol")

    def _stop_after(self, last: int) -> None:
        self._last = last
        self._frozen = False
        self._changed.notify_all()

    def _send(self, line: str) -> None:
        try:
            for connection in self._connections.values():
                connection.sendall(f"{line}\n".encode())
        except OSError:
            self._disconnect()

    def _disconnect(self) -> None:
        """Without all workers there is no agreement; the next step fails, if one is gone."""
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        self._lost, self._frozen = True, False
        self._changed.notify_all()
