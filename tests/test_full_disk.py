"""A full disk or a vanished folder ends a run with one line; then it ends like an undisturbed one.

The first test has a really small disk, where the machine allows it. The others inject the error
at each place that writes.
"""

import errno
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from command import arguments, completed, run_train
from test_resume import small_learner

from daso_tf.commands import describe, predict, preview, terminal
from daso_tf.platform import files, launcher_folder
from daso_tf.platform.disk import naming
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.flags_file import write_flags_file
from daso_tf.run.lock import one_run
from daso_tf.run.preparation import prepare
from daso_tf.run.report import draw
from daso_tf.run.results import Results
from daso_tf.step import export

SETTINGS = {"steps": 5, "evaluate_every": 2, "test_images": 3}


def train(model_dir, **more):
    return run_train(*arguments(model_dir=model_dir, **SETTINGS, **more))


def assert_like(model_dir, undisturbed):
    """Checks the last state, all evaluations, and that nothing unfinished is left."""
    last = "checkpoints/step_00000005.npz"
    with np.load(model_dir / last) as one, np.load(undisturbed / last) as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    results = [folder / "results.json" for folder in (model_dir, undisturbed)]
    assert results[0].read_text() == results[1].read_text()
    assert tf.saved_model.contains_saved_model(str(model_dir / "export"))
    left = {path.name for path in model_dir.rglob("*")}
    assert not [name for name in left if name.endswith(".tmp") or name.startswith(".export")]


def one_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("daso-tf: stopped, ") and "continues from the newest checkpoint" in line
    return line


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own with 1.2 MB: room for one checkpoint, but not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk(small_disk, finished_run, capsys):
    assert train(small_disk / "run") == 1
    assert re.search(r"No space left on device: '.*/step_\d+\.npz'", one_line(capsys))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert train(small_disk / "run") == 0
    assert_like(small_disk / "run", finished_run.model_dir)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for(name, nth, original):
    """Replaces a function of a path and more by one that fails the nth time for that name."""
    calls = []

    def write(path, *more):
        if path.name.startswith(name):
            calls.append(path)
            if len(calls) == nth:
                return original(path, full)
        return original(path, *more)

    return write


def full_tensorflow(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "export/variables; No space left\nmore")


def test_a_disk_that_is_full_at_one_place_after_the_other(
    tmp_path, finished_run, capsys, monkeypatch
):
    writes = {
        "results.json": ("daso_tf.run.results.write_atomically", "results", 2),
        "step_00000005.npz": ("daso_tf.run.checkpoints.write_atomically", "step_", 2),
    }
    for named, (target, name, nth) in writes.items():
        with monkeypatch.context() as patch:
            patch.setattr(target, full_for(name, nth, files.write_atomically))
            assert train(tmp_path / "run") == 1
        assert f"No space left on device: '{tmp_path / 'run'}" in (line := one_line(capsys))
        assert named in line
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_archive", full_tensorflow)
        assert train(tmp_path / "run") == 1
    assert "run/export'" in (line := one_line(capsys)) and "No space left" in line
    assert train(tmp_path / "run") == 0
    assert_like(tmp_path / "run", finished_run.model_dir)


def test_every_writer_names_its_file(tmp_path, finished_run, monkeypatch):
    results = Results(tmp_path / "results.json", map(str, range(10)), range(10), None)
    evaluations = json.loads((finished_run.model_dir / "results.json").read_text())["evaluations"]
    results.evaluations = evaluations
    monkeypatch.setattr("os.fsync", full)
    for name, write in {
        "results.json": results.write,
        "results.png": lambda: draw(results, tmp_path / "results.png"),
        "step_00000000.npz": lambda: Checkpoints(tmp_path).save(small_learner(0)),
        "flags.cfg": lambda: write_flags_file(tmp_path / "flags.cfg", completed(*arguments())),
    }.items():
        with pytest.raises(OSError, match=rf"No space left on device: '.*{name}'"):
            write()
    assert list(tmp_path.iterdir()) == []  # part of a file would keep the disk full


def test_a_command_that_a_full_disk_stops_has_one_line_and_exit_code_1(
    tmp_path, finished_run, capsys, monkeypatch
):
    picture = finished_run.model_dir / "test_images"
    monkeypatch.setattr("os.fsync", full)
    for name, command, given in (
        ("data_copies.csv", describe.COMMAND, arguments(picture=tmp_path / "data.png")),
        ("sheet.png", preview.COMMAND, [str(picture), str(tmp_path / "sheet.png")]),
    ):
        assert terminal.call(command, given) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.fullmatch(rf"daso-tf: .*No space left on device: '.*{name}'", line)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(predict, "_opened_output", lambda path: _FullFile())
    model = f"--model={finished_run.model_dir / 'export'}"
    assert terminal.call(predict.COMMAND, [model, "--output=out.csv", str(picture)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("No space left on device: 'out.csv'")


class _FullFile(io.StringIO):
    """A file on a full disk: what is buffered cannot be written, when it is closed either."""

    flush = close = full


def test_errors_of_tensorflow_become_one_line():
    one_line = r"^'runs/a': export/variables; No space left$"
    with pytest.raises(OSError, match=one_line), naming("runs/a"):
        full_tensorflow()


def test_a_folder_that_vanishes(tmp_path, capsys, monkeypatch):
    write = files.write_atomically

    def vanish(path, content):
        shutil.rmtree(tmp_path / "run")
        write(path, content)

    monkeypatch.setattr("daso_tf.run.results.write_atomically", vanish)
    assert train(tmp_path / "run") == 1
    assert re.search(r"No such file or directory: '.*/run/results\.json", one_line(capsys))
    assert not (tmp_path / "run").exists()


def test_a_failed_export_leaves_the_one_before(finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run.model_dir / "export", tmp_path / "export")
    before = (tmp_path / "export" / "saved_model.pb").read_bytes()
    monkeypatch.setattr(export, "write_archive", full)
    with pytest.raises(OSError, match="export"):
        small_learner(0).export(tmp_path / "export")
    assert (tmp_path / "export" / "saved_model.pb").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    run_dir, exports = tmp_path / "run", tmp_path / "exports"
    own = [
        run_dir / ".export-abcdefg1",
        exports / ".export-digits-abcdefg1",
    ]
    foreign = [
        exports / ".export-abcdefg1",
        exports / ".export-digits-2-abcdefg1",
        exports / ".export-notes",
        run_dir / ".export-notes",
    ]
    for folder in own + foreign:
        (folder / "variables").mkdir(parents=True)
    (run_dir / "checkpoints").mkdir()
    unfinished = run_dir / "checkpoints" / "step_00000001.npz.tmp"
    unfinished.write_text("part")
    settings = completed(*arguments(model_dir=run_dir, export_dir=exports / "digits"))
    with one_run(settings):
        prepare(settings)
    assert not any(path.exists() for path in (*own, unfinished))
    assert all(path.exists() for path in foreign)


def test_only_launchers_that_have_ended_leave_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(launcher_folder.tempfile, "tempdir", str(tmp_path))
    ended, foreign = (tmp_path / f"{launcher_folder.PREFIX}{name}" for name in ("ended", "foreign"))
    for folder in (ended, foreign):
        folder.mkdir()
        (folder / "worker_1.log").write_text("output")
    (ended / "launcher.lock").touch()
    first = launcher_folder.make()
    second = launcher_folder.make()
    # This process has not ended; a folder without a lock may be that of another program.
    assert {*tmp_path.iterdir()} == {first, second, foreign}


@pytest.mark.parametrize("kind", ["a file", "a folder with other files", "below a file"])
def test_an_export_folder_that_cannot_be_written_is_found_before_training(kind, tmp_path, capsys):
    target = tmp_path / "target"
    if kind == "a folder with other files":
        target.mkdir()
        (target / "thesis.txt").write_text("text")
    else:
        target.write_text("text")
    export_dir = target / "export" if kind == "below a file" else target
    assert train(tmp_path / "run", export_dir=export_dir) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(target) in line
    assert not (tmp_path / "run").exists()


def test_an_export_folder_on_a_disk_that_is_read_only(tmp_path, capsys, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(export.tempfile, "TemporaryDirectory", read_only)
    assert train(tmp_path / "run", export_dir=tmp_path / "a" / "b") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/a/b cannot be written" in line and "Read-only file system" in line
    assert not (tmp_path / "run").exists()
