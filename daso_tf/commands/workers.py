"""Trains with several worker processes on this machine, as a cluster does.

    daso-tf workers 3 --flagfile=digits_lt.cfg

The first worker, the chief, prints to the terminal. The output of the others goes to files. If one
of them fails, all stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

from daso_tf.commands import terminal
from daso_tf.platform import launcher_folder
from daso_tf.settings.settings import Settings

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0  # for the others to notice the failure and to report it


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
    processes: list[subprocess.Popen] = []
    with contextlib.ExitStack() as stack:
        for index, variables in enumerate(cluster(int(count))):
            output = None
            if index:
                output = stack.enter_context(open(logs / f"worker_{index}.log", "wb"))
            processes.append(
                subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)
            )
        if len(processes) > 1:
            print(f"The other workers print to {logs}", file=sys.stderr)
        try:
            return _wait(processes)
        except KeyboardInterrupt:  # each worker has received it too and says so
            return terminal.INTERRUPTED
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _wait(processes: list[subprocess.Popen]) -> int:
    """Waits for all processes; after the first failure, only a limited time longer."""
    end, code = float("inf"), 0
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        failed = next((p.returncode for p in processes if p.returncode), 0)
        if failed and not code:
            code, end = failed, time.monotonic() + _GRACE_SECONDS
        time.sleep(_POLL_SECONDS)
    return code or next((p.returncode for p in processes if p.returncode), 0)


COMMAND = terminal.Command(
    "workers",
    main,
    parses=False,
    usage="NUMBER [FLAGS]",
    details="FLAGS are those of `daso-tf train`; its --help lists them. Each worker gets them and\n"
    "--strategy=multi_worker.\n"
    "Exit code: that of the first worker that fails, or 0.",
)
