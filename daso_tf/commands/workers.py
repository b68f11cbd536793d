"""Trains with several worker processes on this machine, as a cluster does.

    daso-tf workers 3 --flagfile=digits_lt.cfg

The first worker, the chief, prints to the terminal. The output of the others goes to files. If one
of them fails, all stop. SIGTERM and Ctrl-C reach all workers; no worker outlives this command.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.platform import launcher_folder, signals
from daso_tf.settings.settings import Settings

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0  # for the others to notice a failure or to save, and to report it
_PR_SET_PDEATHSIG = 1  # of the Linux kernel


def cluster(count: int) -> list[dict[str, str]]:
    """Returns the `TF_CONFIG` of each worker as environment variables; the ports are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            )
        }
        for index in range(count)
    ]


def main(settings: Settings, arguments: list[str]) -> int:
    """Runs the workers.

    Args:
        settings: No flag is parsed here.
        arguments: The number of workers, then the flags of `daso-tf train`.

    Returns:
        The exit code.
    """
    count, *flags = arguments or [""]
    if not count.isdecimal() or int(count) < 1:
        return terminal.fail(
            "needs the number of workers, then the flags of daso-tf train, such as: 2 "
            "--flagfile=digits_lt.cfg"
        )
    logs = launcher_folder.make()
    command = [sys.executable, "-m", "daso_tf.train", *flags, "--strategy=multi_worker"]
    workers = _Workers()
    with signals.taken_by(workers.forward), workers:
        for index, variables in enumerate(cluster(int(count))):
            workers.start(command, variables, logs / f"worker_{index}.log" if index else None)
        if int(count) > 1:
            print(f"The other workers print to {logs}", file=sys.stderr)
        return workers.wait()


class _Workers:
    """The processes of the workers. None of them outlives this context."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen] = []
        self.received: int | None = None  # the first signal

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def start(self, command: list[str], variables: dict[str, str], log: Path | None) -> None:
        """Starts a worker that prints to a file, or to the terminal if that is None."""
        with open(log, "wb") if log else contextlib.nullcontext() as output:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=os.environ | variables,
                    stdout=output,
                    stderr=output,
                    preexec_fn=_end_with_the_launcher(),
                )
            )
        if self.received is not None:  # while it was being started
            self.forward(self.received)

    def forward(self, number: int) -> bool:
        """Passes a signal on to the workers."""
        self.received = self.received or number
        for process in self.processes:
            process.send_signal(number)
        return True

    def wait(self) -> int:
        """Waits for all workers; after the first failure or a signal, only a limited time longer.

        Returns:
            The exit code.
        """
        end, code = float("inf"), 0
        try:
            while None in [p.poll() for p in self.processes] and time.monotonic() < end:
                code = code or self._code()
                if (code or self.received) and end == float("inf"):
                    end = time.monotonic() + _GRACE_SECONDS
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:  # each worker has received it too and says so
            return terminal.INTERRUPTED
        if self.received:
            return signals.EXIT_CODES[signal.Signals(self.received)]
        return code or self._code()

    def _code(self) -> int:
        """Returns the exit code of the first worker that has failed, as a shell does, or 0."""
        codes = [p.returncode for p in self.processes if p.returncode]
        return 128 - codes[0] if codes and codes[0] < 0 else next(iter(codes), 0)


def _end_with_the_launcher() -> Callable[[], None] | None:
    """Returns what a worker calls first: the kernel sends it SIGTERM if the launcher is killed."""
    if sys.platform != "linux":
        return None
    prctl, launcher = ctypes.CDLL(None).prctl, os.getpid()

    def call() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != launcher:  # it was killed before
            os._exit(terminal.TERMINATED)

    return call


COMMAND = COMMANDS["workers"]
