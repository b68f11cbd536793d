"""Damaged and foreign inputs of commands: models, archives, lists and deep folders."""

import io
import json
import lzma
import os
import shutil
import tarfile
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_data_semi_aves import write_tree
from test_resume import small_learner

from daso_tf import data
from daso_tf.commands import convert, predict, preview, terminal
from daso_tf.data.folders import files_below
from daso_tf.data.sources import archives, open_source, semi_aves


def line_of(command, capfd, *argv):
    """The only line that a command prints where it cannot start."""
    assert terminal.call(command, list(map(str, argv))) == terminal.UNUSABLE
    (line,) = capfd.readouterr().err.splitlines()
    return line


# ---- SavedModels


@pytest.fixture
def export(finished_run, tmp_path):
    shutil.copytree(finished_run.model_dir / "export", tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), max(1, len(content) // 50)):
        content[at] ^= 0xFF
    path.write_bytes(content)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [cut, flip, pipe, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_saved_model_is_named_in_one_line(export, picture, file, damage, capfd):
    damage(export / file)
    line = line_of(predict.COMMAND, capfd, f"--model={export}", picture)
    assert str(export) in line and "cannot be used (" in line and "()" not in line


def test_a_saved_model_without_its_variables_is_named(export, picture, capfd):
    shutil.rmtree(export / "variables")
    assert str(export) in line_of(predict.COMMAND, capfd, f"--model={export}", picture)


class Foreign(tf.Module):
    """A model with other inputs and outputs than an export."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def other_inputs(self, x):
        return {"y": x}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def other_outputs(self, images):
        return {"class_ids": tf.zeros([tf.shape(images)[0]], tf.int64)}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def other_types(self, images):
        ids = tf.zeros([tf.shape(images)[0]])
        return {"class_ids": ids, "probabilities": ids[:, tf.newaxis]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "serving_default"),
        ("other_inputs", "not uint8 images"),
        ("other_outputs", "no output probabilities"),
        ("other_types", "no output class_ids of type int64"),
    ],
)
def test_a_foreign_saved_model_is_named_in_one_line(name, said, tmp_path, picture, capfd):
    module = Foreign()
    signatures = {"serving_default": getattr(module, name)} if name else None
    tf.saved_model.save(module, str(tmp_path / "model"), signatures)
    line = line_of(predict.COMMAND, capfd, f"--model={tmp_path / 'model'}", picture)
    assert str(tmp_path / "model") in line and said in line


# ---- .keras files and state dicts


@pytest.fixture(scope="module")
def learner_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("learner") / "learner.keras"
    small_learner(0).save(path)
    return path


def rewritten(source, target, **members):
    """Copies a .keras file with other members; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = members.get(name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)


def version(of=None):
    return json.dumps({"keras_version": of or keras.__version__})


DAMAGED = {
    "no config": {"config_json": None},
    "no weights": {"model_weights_h5": None},
    "no metadata": {"metadata_json": None},
    "metadata is a list": {"metadata_json": "[1]"},
    "version is a number": {"metadata_json": '{"keras_version": 3}'},
    "version is a word": {"metadata_json": version("three")},
    "config is no JSON": {"config_json": "{"},
    "config is a number": {"config_json": "1"},
    "config is empty": {"config_json": "{}"},
    "config is nested deeply": {"config_json": "[" * 100_000},
    "another class": {
        "config_json": '{"class_name": "Nothing", "config": {}, "module": "nothing"}'
    },
    "truncated weights": {"model_weights_h5": b"\x89HDF\r\n\x1a\n" + bytes(100)},
    "empty weights": {"model_weights_h5": b""},
    "a bomb": {"model_weights_h5": bytes(2**27)},
}


@pytest.mark.parametrize("members", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_keras_file_is_named_in_one_line(members, learner_file, tmp_path, capfd):
    source = tmp_path / "damaged.keras"
    rewritten(learner_file, source, **members)
    line = line_of(convert.COMMAND, capfd, source, tmp_path / "out.keras")
    assert f"{source} cannot be converted to " in line
    assert not (tmp_path / "out.keras").exists()


@pytest.mark.parametrize("damage", [cut, pipe, lambda path: path.write_bytes(b"text")])
@pytest.mark.parametrize("suffix", [".keras", ".npz", ".safetensors"])
def test_a_damaged_file_of_any_kind_is_named(suffix, damage, learner_file, tmp_path, capfd):
    source = tmp_path / f"damaged{suffix}"
    shutil.copy(learner_file, source)
    damage(source)
    assert str(source) in line_of(convert.COMMAND, capfd, source, tmp_path / "out")


def test_a_model_that_is_no_learner_is_refused(tmp_path, capfd):
    source = tmp_path / "other.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(source)
    line = line_of(convert.COMMAND, capfd, source, tmp_path / "out")
    assert "it holds a Sequential, not a learner of daso_tf" in line


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.zeros(3)}, "not a state dict"),
        ({"a": np.array([{}])}, "Python objects"),
        (
            {
                "encoder.init_conv.weight": np.zeros((16, 3, 3, 3)),
                "classifier.classifier.weight": np.zeros((1, 6_400_000), np.float32),
            },
            "6400000 numbers",
        ),
    ],
)
def test_arrays_of_something_else_are_refused(arrays, said, tmp_path, capfd):
    np.savez(tmp_path / "a.npz", **arrays)
    assert said in line_of(convert.COMMAND, capfd, tmp_path / "a.npz", tmp_path / "out")


# ---- Folders


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Folders nested 1,200 levels deep, with one picture in the deepest."""
    root = tmp_path_factory.mktemp("deep")
    here = os.open(root, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    with open("a.png", "wb", opener=lambda name, how: os.open(name, how, 0o600, dir_fd=here)) as f:
        f.write(content.getvalue())
    os.close(here)
    yield root
    while (root / "d").exists():  # from the top: shutil.rmtree is recursive
        os.rename(root / "d", root / "top")
        if (root / "top" / "d").exists():
            os.rename(root / "top" / "d", root / "d")
        shutil.rmtree(root / "top")


def test_deep_folders_are_read(deep, tmp_path):
    assert [path.name for path in predict.image_paths([str(deep)])] == ["a.png"]
    assert len(preview.read_images(deep, side=8)) == 1
    for part in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / part).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / "a.png")
    (tmp_path / "unlabeled").symlink_to(deep)
    assert len(open_source("image_folder", tmp_path).unlabeled.labels) == 1


def test_a_path_that_is_too_long_is_one_line(tmp_path, picture, export, capfd):
    here = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("long", dir_fd=here)
    for _ in range(17):
        below = os.open("long", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        os.mkdir("long", dir_fd=here)
        os.rename("long", "l" * 250, src_dir_fd=here, dst_dir_fd=here)
        os.symlink("l" * 250, "long", dir_fd=here)
    os.close(here)
    line = line_of(predict.COMMAND, capfd, f"--model={export}", tmp_path / "long")
    assert "cannot be listed: File name too long" in line and len(line) < 400


def test_files_come_before_folders_and_links_to_folders_are_not_followed(tmp_path):
    for name in ("b/1.png", "a/2.png", "3.png", ".hidden/4.png", "a/.5.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    found = [os.path.relpath(entry.path, tmp_path) for entry in files_below(tmp_path)]
    assert found == ["3.png", "a/2.png", "b/1.png"]


# ---- Lists and archives


def test_a_compressed_list_is_not_unpacked_beyond_a_limit(tmp_path, monkeypatch):
    write_tree(tmp_path)
    monkeypatch.setattr(semi_aves, "_MOST_BYTES", 2**20)
    content = (tmp_path / "l_train.txt").read_bytes()
    (tmp_path / "l_train.txt").unlink()
    path = tmp_path / "l_train.txt.xz"
    path.write_bytes(lzma.compress(content))
    open_source("semi_aves", tmp_path)
    path.write_bytes(lzma.compress(content + bytes(2**27)))
    assert path.stat().st_size < 2**20
    with pytest.raises(data.DataError, match=r"l_train\.txt\.xz' has more than 1,048,576 bytes"):
        open_source("semi_aves", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_an_archive_with_a_huge_file_is_refused(name, tmp_path, monkeypatch):
    archive = archives.ARCHIVES[name]
    monkeypatch.setattr(archives, "_MOST_CIFAR", 2**20)
    with tarfile.open(tmp_path / archive.filename, "w:gz") as packed:
        info = tarfile.TarInfo(f"{archive.folder}/notes.txt")
        info.size = 2**21
        packed.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(data.DataError, match=r"notes\.txt has 2,097,152 bytes"):
        archives.read_archive(archive, tmp_path)
