"""Trains with several workers on this machine: `python -m daso_tf.workers 3 --dataset=...`.

To try what `--strategy=multi_worker` does on a cluster. The first worker, the chief, prints here;
what the others print goes into files. When one of them ends by a fault, so do all. Exit code: that
of the first worker that fails, or 0.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daso_tf.commands import terminal

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0  # for the others to notice by themselves, and to say so


def cluster(count: int) -> list[dict[str, str]]:
    """Returns the environment of each worker: its `TF_CONFIG`, with ports that are free now."""
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


def main(argv: list[str]) -> int:
    """Runs the workers.

    Args:
        argv: the program's name, how many workers, and the flags of `daso_tf.train`.

    Returns:
        The exit code.
    """
    if len(argv) < 2 or not argv[1].isdecimal() or int(argv[1]) < 1:
        return terminal.fail(
            "say how many workers, then the flags of daso_tf.train, such as: 2 "
            "--flagfile=flags/digits_lt.cfg"
        )
    logs = Path(tempfile.mkdtemp(prefix="daso_tf-workers-"))
    command = [sys.executable, "-m", "daso_tf.train", *argv[2:], "--strategy=multi_worker"]
    processes = []
    with contextlib.ExitStack() as stack:
        for index, variables in enumerate(cluster(int(argv[1]))):
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
        except KeyboardInterrupt:
            return 130
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _wait(processes: list[subprocess.Popen]) -> int:
    """Waits for all of them, or some time longer than for the first that fails."""
    end, code = float("inf"), 0
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        failed = next((p.returncode for p in processes if p.returncode), 0)
        if failed and not code:
            code, end = failed, time.monotonic() + _GRACE_SECONDS
        time.sleep(_POLL_SECONDS)
    return code or next((p.returncode for p in processes if p.returncode), 0)
