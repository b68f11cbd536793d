"""The archives of CIFAR and STL-10 in their published formats, with few images."""

import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from daso_tf import data
from daso_tf.data.sources import archives
from daso_tf.data.sources.archives import ARCHIVES
from daso_tf.data.sources.restricted_pickle import RestrictedUnpickler

SIZES = {"labeled_head": 2, "unlabeled_head": 2}


def random_images(count, size, num_classes, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    return images, np.arange(count) % num_classes


def python2_pickle(rows, labels_key, labels):
    """The bytes, opcode by opcode, that Python 2 writes for {"data": rows, labels_key: labels}."""
    raw = rows.tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x04data",
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR",
            b"(K\x01(J" + struct.pack("<i", len(rows)) + b"M" + struct.pack("<H", 3072) + b"t",
            b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2,
            b"K\x00tb\x89T" + struct.pack("<i", len(raw)) + raw + b"tb",
            b"U" + bytes([len(labels_key)]) + labels_key.encode(),
            b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"eu.",
        ]
    )


def cifar_rows(images):
    """One row per image: the red plane, the green plane, the blue plane."""
    return np.stack([np.concatenate([image[..., c].ravel() for c in range(3)]) for image in images])


def cifar10_files(train, test):
    files = {
        f"data_batch_{i + 1}": python2_pickle(cifar_rows(train[0][i::5]), "labels", train[1][i::5])
        for i in range(5)
    }
    files["test_batch"] = python2_pickle(cifar_rows(test[0]), "labels", test[1])
    names = [b"airplane", *(b"class %d" % k for k in range(1, 10))]
    files["batches.meta"] = pickle.dumps({b"label_names": names}, protocol=2)
    return files | {"readme.html": b"<html>"}


def cifar100_files(train, test):
    def record(images, labels):
        return {b"data": cifar_rows(images), b"fine_labels": labels.tolist(), b"coarse_labels": []}

    names = [b"class %d" % k for k in range(100)]
    return {
        "train": pickle.dumps(record(*train), protocol=2),
        "test": pickle.dumps(record(*test)),
        "meta": pickle.dumps({b"fine_label_names": names, b"coarse_label_names": []}),
    }


def stl10_files(train, test, unlabeled):
    def pixels(images):
        """Planes of red, green, blue, each column by column."""
        return b"".join(image[..., c].T.tobytes() for image in images for c in range(3))

    return {
        "train_X.bin": pixels(train[0]),
        "train_y.bin": (train[1] + 1).astype(np.uint8).tobytes(),
        "test_X.bin": pixels(test[0]),
        "test_y.bin": (test[1] + 1).astype(np.uint8).tobytes(),
        "unlabeled_X.bin": pixels(unlabeled),
        "class_names.txt": "\n".join(f"class{k}" for k in range(10)).encode() + b"\n",
        "fold_indices.txt": b"0 1 2\n",
    }


def unpack(files, data_dir, name):
    folder = data_dir / ARCHIVES[name].folder
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)


def pack(files, data_dir, name, prefix=None):
    data_dir.mkdir(exist_ok=True)
    path = data_dir / ARCHIVES[name].filename
    with tarfile.open(path, "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{prefix or ARCHIVES[name].folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def cifar10():
    return cifar10_files(random_images(100, 32, 10, 0), random_images(20, 32, 10, 1))


def label_of(images, labels):
    return {image.tobytes(): label for image, label in zip(images, labels, strict=True)}


def check_labels(loaded, train, test):
    for parts, truth in (
        ((loaded.labeled, loaded.unlabeled), label_of(*train)),
        ((loaded.test,), label_of(*test)),
    ):
        for part in parts:
            known = part.labels >= 0
            labels = [truth[image.tobytes()] for image in part.images[known]]
            assert labels == part.labels[known].tolist()


@pytest.mark.parametrize("put", [pack, unpack])
def test_cifar10(tmp_path, put):
    train, test = random_images(100, 32, 10, 0), random_images(20, 32, 10, 1)
    put(cifar10_files(train, test), tmp_path, "cifar10")
    loaded = data.load("cifar10", data_dir=tmp_path, labeled_head=4, unlabeled_head=6)
    assert loaded.class_names[:2] == ("airplane", "class 1")
    assert (len(loaded.labeled), len(loaded.unlabeled), len(loaded.test)) == (40, 60, 20)
    check_labels(loaded, train, test)
    assert loaded.mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.parametrize("put", [pack, unpack])
def test_cifar100(tmp_path, put):
    train, test = random_images(400, 32, 100, 0), random_images(100, 32, 100, 1)
    put(cifar100_files(train, test), tmp_path, "cifar100")
    loaded = data.load("cifar100", data_dir=str(tmp_path), **SIZES)
    assert loaded.num_classes == 100
    assert (len(loaded.labeled), len(loaded.unlabeled), len(loaded.test)) == (200, 200, 100)
    check_labels(loaded, train, test)


@pytest.mark.parametrize("put", [pack, unpack])
def test_stl10(tmp_path, put):
    train, test = random_images(30, 96, 10, 0), random_images(20, 96, 10, 1)
    unlabeled = random_images(13, 96, 10, 2)[0]
    put(stl10_files(train, test, unlabeled), tmp_path, "stl10")
    loaded = data.load("stl10", data_dir=tmp_path, labeled_head=2, validation_size=10)
    np.testing.assert_array_equal(loaded.unlabeled.images, unlabeled)
    assert (loaded.unlabeled.labels == -1).all()
    assert (len(loaded.labeled), len(loaded.validation), len(loaded.test)) == (20, 10, 20)
    check_labels(loaded, train, test)


def test_the_split_does_not_depend_on_the_order_on_disk(tmp_path):
    (images, labels), test = random_images(100, 32, 10, 0), random_images(20, 32, 10, 1)
    other = np.random.default_rng(5).permutation(100)
    pack(cifar10_files((images, labels), test), tmp_path / "one", "cifar10")
    unpack(cifar10_files((images[other], labels[other]), test), tmp_path / "two", "cifar10")
    one, two = (
        data.load("cifar10", data_dir=tmp_path / place, **SIZES) for place in ("one", "two")
    )
    np.testing.assert_array_equal(one.labeled.images, two.labeled.images)
    np.testing.assert_array_equal(one.unlabeled.images, two.unlabeled.images)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_survive_the_restricted_unpickler(protocol):
    record = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2], "n": b"\xff"}
    loaded = RestrictedUnpickler(io.BytesIO(pickle.dumps(record, protocol=protocol))).load()
    np.testing.assert_array_equal(loaded.pop(b"data"), record.pop(b"data"))
    assert loaded == record


class _Harmful:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("harmful", [_Harmful(), print, np.load, {b"data": {1: _Harmful()}}])
def test_no_code_in_a_pickle_is_run(tmp_path, cifar10, harmful):
    with pytest.raises(pickle.UnpicklingError, match="which no array needs"):
        RestrictedUnpickler(io.BytesIO(pickle.dumps(harmful))).load()
    pack(cifar10 | {"data_batch_3": pickle.dumps(harmful)}, tmp_path, "cifar10")
    with pytest.raises(data.DataError, match="data_batch_3 cannot be unpickled: it requests"):
        data.load("cifar10", data_dir=tmp_path, **SIZES)


def without(files, name):
    return {key: files[key] for key in files if key != name}


DAMAGE = {
    "missing file": (lambda f: without(f, "data_batch_4"), "data_batch_4 is missing"),
    "missing names": (lambda f: without(f, "batches.meta"), "batches.meta is missing"),
    "text": (lambda f: f | {"test_batch": b"text"}, "test_batch cannot be unpickled"),
    "cut off": (
        lambda f: f | {"test_batch": f["test_batch"][:-1000]},
        "test_batch cannot be unpickled",
    ),
    "other record": (lambda f: f | {"test_batch": pickle.dumps([1])}, "holds a list, not a dict"),
    "other shape": (
        lambda f: f | {"test_batch": pickle.dumps({"data": np.zeros((2, 5), np.uint8)})},
        r"test_batch has no uint8 data of shape \(N, 3072\)",
    ),
    "labels of another length": (
        lambda f: f | {"test_batch": python2_pickle(np.zeros((2, 3072), np.uint8), "labels", [1])},
        "test_batch has no list of 2 integers",
    ),
    "label beyond the classes": (
        lambda f: f | {"test_batch": python2_pickle(np.zeros((1, 3072), np.uint8), "labels", [10])},
        r"test_batch has labels 10\.\.10 for 10 classes",
    ),
    "names of another kind": (
        lambda f: f | {"batches.meta": pickle.dumps({"label_names": [1]})},
        "batches.meta has no list label_names",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_cifar_is_explained(tmp_path, cifar10, case):
    damage, message = DAMAGE[case]
    unpack(damage(cifar10), tmp_path, "cifar10")
    with pytest.raises(data.DataError, match=message) as caught:
        data.load("cifar10", data_dir=tmp_path, **SIZES)
    assert str(tmp_path / "cifar-10-batches-py") in str(caught.value)
    assert "Download cifar-10-python.tar.gz again" in str(caught.value)


def test_damaged_stl10_is_explained(tmp_path):
    files = stl10_files(
        random_images(10, 96, 10, 0), random_images(10, 96, 10, 1), random_images(3, 96, 10, 2)[0]
    )
    cases = {
        "unlabeled_X.bin": (files["unlabeled_X.bin"][:-1], "82943 bytes, not a multiple of 27648"),
        "train_y.bin": (bytes(9), "train_y.bin has no list of 10 integers"),
        "test_y.bin": (bytes(10), r"test_y.bin has labels -1\.\.-1 for 10 classes"),
    }
    for name, (content, message) in cases.items():
        unpack(files | {name: content}, tmp_path / name, "stl10")
        with pytest.raises(data.DataError, match=message):
            data.load("stl10", data_dir=tmp_path / name, labeled_head=1)


def test_a_truncated_archive_is_explained(tmp_path, cifar10):
    path = pack(cifar10, tmp_path, "cifar10")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(data.DataError, match=r"cifar-10-python.tar.gz' cannot be read"):
        data.load("cifar10", data_dir=tmp_path, **SIZES)
    path.write_bytes(b"")
    with pytest.raises(data.DataError, match=r"cifar-10-python.tar.gz' cannot be read"):
        data.load("cifar10", data_dir=tmp_path, **SIZES)


@pytest.mark.parametrize("prefix", ["../cifar-10-batches-py", "/cifar-10-batches-py"])
def test_paths_that_leave_the_archive_are_refused(tmp_path, cifar10, prefix):
    pack(cifar10, tmp_path, "cifar10", prefix)
    with pytest.raises(data.DataError, match="outside its own folder"):
        data.load("cifar10", data_dir=tmp_path, **SIZES)
    assert sorted(os.listdir(tmp_path)) == ["cifar-10-python.tar.gz"]


def test_an_archive_of_the_published_size_must_have_the_published_checksum(
    tmp_path, cifar10, monkeypatch
):
    path = pack(cifar10, tmp_path, "cifar10")
    published = archives.ARCHIVES["cifar10"]
    same_size = archives.Archive(**(vars(published) | {"bytes": path.stat().st_size}))
    monkeypatch.setitem(archives.ARCHIVES, "cifar10", same_size)
    with pytest.raises(data.DataError, match=f"SHA-256 is .* published one {published.sha256}"):
        data.load("cifar10", data_dir=tmp_path, **SIZES)
