"""Signals to commands and to the launcher of workers, each in a process of its own."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import arguments

from daso_tf.commands import terminal, workers
from daso_tf.platform import signals

ROOT = Path(__file__).parents[1]


def test_the_library_installs_no_handlers():
    program = (
        "import signal; before = [signal.getsignal(n) for n in range(1, 32)];"
        "import daso_tf; assert [signal.getsignal(n) for n in range(1, 32)] == before"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


SENT = """
import os, signal, sys
sys.orig_argv = [sys.executable, "-m", "daso_tf.train"]  # as a command
sys.argv[0] = "daso-tf"
NUMBER = int(sys.argv.pop(1))
def send(*arguments, **names):
    os.kill(os.getpid(), NUMBER)
    while True:
        signal.pause()
"""
WHILE = {
    # TensorFlow is imported with the standard error stream redirected.
    "importing": "import importlib.abc\n"
    "class Finder(importlib.abc.MetaPathFinder):\n"
    "    def find_spec(self, name, path, target=None):\n"
    "        if name == 'tensorflow': send()\n"
    "sys.meta_path.insert(0, Finder())\n",
    "loading": "import daso_tf.library\n"
    "from daso_tf.run import preparation\npreparation.selected = send",
    "exporting": "import daso_tf.library\n"
    "from daso_tf.run import exported\nexported.write_saved_model = send",
}


def test_a_signal_after_the_end_does_not_change_the_exit_code():
    program = (
        SENT.replace("while True:", "if False:")
        + "import atexit\natexit.register(send)\nfrom daso_tf.commands import cli\ncli.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(int(signal.SIGTERM)), "presets", "stray"],
        cwd=ROOT,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "stray" in ended.stderr and "SIGTERM" not in ended.stderr


CONTINUES = "; the same command continues from the newest checkpoint"


@pytest.mark.parametrize(
    ("moment", "number", "line"),
    [
        ("importing", signal.SIGINT, "interrupted"),
        ("loading", signal.SIGTERM, "stopped by SIGTERM" + CONTINUES),
        ("exporting", signal.SIGINT, "interrupted" + CONTINUES),
    ],
)
def test_a_signal_ends_a_command_at_once_with_one_line(moment, number, line, tmp_path):
    program = SENT + WHILE[moment] + "\nfrom daso_tf.commands import cli\ncli.main()"
    command = ["train", *arguments(model_dir=tmp_path, steps=1, pretrain_steps=0)]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(int(number)), *command],
        cwd=ROOT,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert ended.stderr == f"daso-tf: {line}\n"
    assert ended.returncode == signals.EXIT_CODES[number]


# The launcher of workers --------------------------------------------------------------------------


def fake_python(folder, text):
    """A program that takes the place of each worker."""
    program = folder / "python"
    program.write_text(f"#!/bin/bash\n{text}\n")
    program.chmod(0o755)
    return str(program)


FOREVER = "while :; do sleep 0.02; done"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"trap 'exit 143' TERM; kill -TERM $PPID; {FOREVER}", 143),
        ("exit 143", 143),  # one worker was told to stop, and all have stopped
        ("[[ $TF_CONFIG == *'\"index\": 1'* ]] && exit 7; exec sleep 100", 7),
        ("kill -KILL $$", 137),
        ("true", 0),
    ],
)
def test_the_launcher_ends_with_its_workers(tmp_path, monkeypatch, text, code):
    program = fake_python(tmp_path, f"echo $$ >> {tmp_path}/started; {text}")
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 0.0 if code == 7 else 60.0)
    assert terminal.call(workers.COMMAND, ["2"]) == code
    for process in map(int, (tmp_path / "started").read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_workers_that_cannot_be_started_leave_no_others(tmp_path, monkeypatch, capsys):
    started = []

    def start(command, **arguments):
        if started:
            raise OSError("no memory")
        started.append(popen(command, **arguments))
        return started[0]

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, FOREVER))
    assert terminal.call(workers.COMMAND, ["2"]) == 2
    assert capsys.readouterr().err == "daso-tf: no memory\n"
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell")
def test_workers_of_a_killed_launcher_are_told_to_stop(tmp_path):
    told = tmp_path / "told"
    os.mkfifo(told)
    descriptor = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
    worker = f"trap 'echo SIGTERM > {told}; exit' TERM; kill -KILL $PPID; {FOREVER}"
    program = (
        "import sys; from daso_tf.commands import terminal, workers;"
        f"sys.executable = {fake_python(tmp_path, worker)!r};"
        "terminal.call(workers.COMMAND, ['1'])"
    )
    launcher = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    assert launcher.returncode == -signal.SIGKILL
    assert select.select([descriptor], [], [], 60)[0]
    assert os.read(descriptor, 100) == b"SIGTERM\n"
    os.close(descriptor)
