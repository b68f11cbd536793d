"""One run per folder: the lock, and files that two processes write at the same time."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest
from command import arguments, completed, run_train

from daso_tf.platform.files import remove_unfinished, write_atomically
from daso_tf.run import lock

# Without TensorFlow, so that it starts at once.
HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(f"process {os.getpid()} on elsewhere", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_run_is_refused_with_the_process_and_host_of_the_first(tmp_path, capsys):
    with lock.locked(tmp_path):
        assert run_train(*arguments(model_dir=tmp_path, steps=1)) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}" in message
    assert "--model_dir" in message
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    held = tmp_path / lock.NAME
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, held],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    refused = pytest.raises(lock.LockedError, match=f"process {holder.pid} on elsewhere")
    with refused, lock.locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    assert held.exists()
    with lock.locked(tmp_path):
        assert held.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert not held.exists()


def test_a_lock_file_that_was_removed_meanwhile_excludes_nobody(tmp_path, monkeypatch):
    flock, opened = fcntl.flock, []

    def flock_after_the_file_is_gone(descriptor, operation):
        opened.append(descriptor)
        if len(opened) == 1:
            (tmp_path / lock.NAME).unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock_after_the_file_is_gone)
    with lock.locked(tmp_path):
        assert len(opened) == 2  # it was opened again under its name
        with pytest.raises(lock.LockedError), lock.locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with caplog.at_level("WARNING", logger="absl"), lock.locked(tmp_path):
        assert "has no locks" in caplog.text


def test_only_the_chief_of_many_workers_holds_the_folder(tmp_path, monkeypatch):
    settings = completed(*arguments(model_dir=tmp_path / "run", strategy="multi_worker"))
    cluster = {"worker": ["a:1", "b:1"]}
    with lock.locked(tmp_path / "run"):
        for index, refused in ((0, True), (1, False)):
            task = {"type": "worker", "index": index}
            monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
            if refused:
                with pytest.raises(lock.LockedError), lock.one_run(settings):
                    pass
            else:
                with lock.one_run(settings):
                    pass


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with lock.locked(tmp_path / "runs" / "new"):
        assert (tmp_path / "runs" / "new" / lock.NAME).exists()
    assert list(tmp_path.iterdir()) == []
    with lock.locked(tmp_path / "runs" / "new"):
        (tmp_path / "runs" / "new" / "flags.cfg").touch()
    assert [path.name for path in (tmp_path / "runs" / "new").iterdir()] == ["flags.cfg"]


def test_two_writers_of_a_file_do_not_take_each_others(tmp_path):
    path = tmp_path / "results.json"

    def write_while_another_does(file):
        file.write(b"first")
        write_atomically(path, lambda other: other.write(b"second"))
        assert path.read_bytes() == b"second"

    write_atomically(path, write_while_another_does)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_unfinished_is_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / f"step_00000002.npz.{'0a' * 16}.tmp").touch()
    others = [folder / "step_00000001.npz", folder / "notes.tmp"]
    for path in others:
        path.touch()
    remove_unfinished(tmp_path)
    assert sorted(folder.iterdir()) == sorted(others)
