"""CIFAR and STL-10 in the format of tensorflow-datasets, with few images written by the test."""

import re
import socket

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from test_data_archives import cifar10_files, pack

from daso_tf import data

TEN_NAMES = ["airplane", "automobile", *"abcdefg", "truck"]


def write_prepared(data_dir, name, version, splits, features):
    """Writes the files that `tfds.builder(name, data_dir=...).download_and_prepare()` writes."""
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    infos = []
    for split, (images, labels) in splits.items():
        path = folder / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                example = {"image": image, "label": label, "id": f"{i}", "coarse_label": 0}
                example = {key: example[key] for key in features}
                writer.write(features.serialize_example(features.encode_example(example)))
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[len(labels)], num_bytes=0))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    return folder


def cifar_features(names, **more):
    return {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=names),
        **more,
    }


def random_images(count, size, num_classes, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    return images, np.arange(count) % num_classes


@pytest.fixture
def no_network(monkeypatch):
    """Makes every attempt to open a connection fail."""

    def refuse(*_, **__):
        raise OSError("the test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def as_set(part):
    return {image.tobytes() for image in part.images}


def test_cifar10_on_disk_needs_no_network(tmp_path, no_network):
    splits = {"train": random_images(200, 32, 10, 0), "test": random_images(30, 32, 10, 1)}
    write_prepared(tmp_path, "cifar10", "3.0.2", splits, cifar_features(TEN_NAMES))
    sizes = {"labeled_head": 5, "labeled_imbalance": 5, "unlabeled_head": 10}
    loaded = data.load("cifar10", data_dir=tmp_path, validation_size=50, **sizes)
    assert loaded.class_names == tuple(TEN_NAMES)
    np.testing.assert_array_equal(loaded.labeled_counts, [5, 4, 3, 2, 2, 2, 1, 1, 1, 1])
    np.testing.assert_array_equal(loaded.unlabeled_counts, [10] * 10)
    np.testing.assert_array_equal(np.bincount(loaded.validation.labels), [5] * 10)
    np.testing.assert_array_equal(np.sort(loaded.test.labels), np.sort(splits["test"][1]))
    assert loaded.mean == (0.4914, 0.4822, 0.4465)
    label_of = {image.tobytes(): label for image, label in zip(*splits["train"], strict=True)}
    for part in (loaded.labeled, loaded.unlabeled, loaded.validation):
        assert [label_of[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_archive_and_tensorflow_datasets_give_the_same_split(tmp_path, no_network):
    splits = {"train": random_images(100, 32, 10, 0), "test": random_images(20, 32, 10, 1)}
    write_prepared(tmp_path / "tfds", "cifar10", "3.0.2", splits, cifar_features(TEN_NAMES))
    pack(cifar10_files(*splits.values()), tmp_path / "archive", "cifar10")
    one, other = (
        data.load("cifar10", data_dir=tmp_path / place, labeled_head=2, unlabeled_head=3)
        for place in ("tfds", "archive")
    )
    np.testing.assert_array_equal(one.labeled.images, other.labeled.images)
    np.testing.assert_array_equal(one.unlabeled.images, other.unlabeled.images)


def test_cifar100_on_disk(tmp_path, no_network):
    splits = {"train": random_images(300, 32, 100, 0), "test": random_images(100, 32, 100, 1)}
    names = [f"class {k}" for k in range(100)]
    features = cifar_features(names, coarse_label=tfds.features.ClassLabel(num_classes=20))
    write_prepared(tmp_path, "cifar100", "3.0.2", splits, features)
    loaded = data.load("cifar100", data_dir=tmp_path, labeled_head=1, unlabeled_head=2)
    assert loaded.class_names == tuple(names)
    assert (len(loaded.labeled), len(loaded.unlabeled), len(loaded.test)) == (100, 200, 100)


def test_stl10_takes_all_unlabeled_images_as_they_are(tmp_path, no_network):
    unlabeled = random_images(25, 96, 10, 2)[0]
    splits = {
        "train": random_images(60, 96, 10, 0),
        "test": random_images(10, 96, 10, 1),
        "unlabelled": (unlabeled, [-1] * 25),
    }
    features = {
        "image": tfds.features.Image(shape=(96, 96, 3)),
        "label": tfds.features.ClassLabel(names=TEN_NAMES),
    }
    write_prepared(tmp_path, "stl10", "1.0.0", splits, features)
    loaded = data.load(
        "stl10", data_dir=tmp_path, labeled_head=4, labeled_imbalance=2, validation_size=20
    )
    assert loaded.class_names == tuple(TEN_NAMES)
    assert loaded.labeled_counts[[0, 9]].tolist() == [4, 2]
    np.testing.assert_array_equal(np.bincount(loaded.validation.labels), [2] * 10)
    np.testing.assert_array_equal(loaded.unlabeled.images, unlabeled)
    assert (loaded.unlabeled.labels == -1).all()
    assert loaded.labeled.size == (96, 96)  # views are made at 96 pixels, then resized to 32
    with pytest.raises(data.DataError, match="unlabeled images of unknown classes"):
        data.load("stl10", data_dir=tmp_path, labeled_head=4, unlabeled_head=4)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_without_network_the_message_says_which_files_to_put_where(tmp_path, no_network, name):
    with pytest.raises(data.DataError) as caught:
        data.load(name, data_dir=tmp_path / "here", labeled_head=1, unlabeled_head=1)
    message = str(caught.value)
    assert f"'{tmp_path}/here/{name}/" in message
    assert "could not be downloaded" in message
    assert "the test has no network" in message
    assert re.search(rf"or put \S+\.tar\.gz into '{tmp_path}/here'", message)
    assert f"tfds.builder('{name}', data_dir='DIR').download_and_prepare()" in message


def test_without_network_other_data_sets_fail_before_the_first_retry(
    tmp_path, no_network, monkeypatch
):
    def download(*_, **__):
        raise AssertionError("tensorflow-datasets repeats a download for minutes")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    with pytest.raises(data.DataError, match="the test has no network") as caught:
        data.load("tfds:beans", data_dir=tmp_path, labeled_head=1, unlabeled_head=1)
    message = str(caught.value)
    assert f"beans is not in '{tmp_path}/beans/" in message
    assert "tfds.builder('beans', data_dir='DIR').download_and_prepare()" in message


def test_broken_or_incomplete_files_are_explained(tmp_path, no_network):
    splits = {"train": random_images(20, 32, 10, 0), "test": random_images(10, 32, 10, 1)}
    folder = write_prepared(tmp_path, "cifar10", "3.0.2", splits, cifar_features(TEN_NAMES))
    records = folder / "cifar10-train.tfrecord-00000-of-00001"
    records.write_bytes(records.read_bytes()[:-100])
    with pytest.raises(data.DataError, match=r"The files of cifar10 in .* cannot be read"):
        data.load("cifar10", data_dir=tmp_path, labeled_head=1, unlabeled_head=1)
    (folder / "dataset_info.json").unlink()
    with pytest.raises(data.DataError, match="incomplete"):
        data.load("cifar10", data_dir=tmp_path, labeled_head=1, unlabeled_head=1)


def own_features(shape=(None, None, 3), **more):
    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["ant", "bee"]),
        **more,
    }


def load_own(tmp_path, splits, features, **options):
    write_prepared(tmp_path, "own_set", "1.0.0", splits, features)
    options = {"labeled_head": 2, "unlabeled_head": 3, "resolution": 8} | options
    return data.load("tfds:own_set", data_dir=tmp_path, **options)


def test_any_set_of_tensorflow_datasets(tmp_path, no_network):
    train, test = random_images(12, 10, 2, 0), random_images(4, 10, 2, 1)
    loaded = load_own(tmp_path, {"train": train, "test": test}, own_features())
    assert loaded.class_names == ("ant", "bee")
    np.testing.assert_array_equal(loaded.labeled_counts, [2, 2])
    np.testing.assert_array_equal(loaded.unlabeled_counts, [3, 3])
    label_of = {image.tobytes(): label for image, label in zip(*train, strict=True)}
    assert [label_of[i.tobytes()] for i in loaded.labeled.images] == loaded.labeled.labels.tolist()
    np.testing.assert_array_equal(loaded.test.images, test[0])
    assert loaded.validation is None


def test_any_set_with_sizes_and_splits_of_its_own(tmp_path, no_network):
    sizes = [random_images(1, size, 2, size)[0][0][..., :1] for size in (5, 6, 7, 8)]
    part = (sizes, [0, 1, 1, 0])
    splits = {"train": part, "validation": part, "test": part, "unlabeled": (sizes, [-1] * 4)}
    features = own_features(shape=(None, None, 1), id=tfds.features.Text())
    loaded = load_own(tmp_path, splits, features, labeled_head=0, unlabeled_head=0)
    for images in (loaded.labeled, loaded.unlabeled, loaded.validation, loaded.test):
        assert images.images.shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(loaded.unlabeled.labels, [-1] * 4)
    np.testing.assert_array_equal(loaded.test.images[3], sizes[3].repeat(3, -1))


def test_validation_stands_in_for_a_missing_test_split(tmp_path, no_network):
    part = random_images(12, 10, 2, 0)
    loaded = load_own(tmp_path, {"train": part, "validation": part}, own_features())
    assert len(loaded.test) == 12
    assert loaded.validation is None


def test_sets_of_another_kind_are_explained(tmp_path, no_network):
    part = random_images(6, 10, 2, 0)
    with pytest.raises(data.DataError, match=r"has the splits 'train'\. It must have 'train', and"):
        load_own(tmp_path / "one", {"train": part}, own_features())
    two = own_features(coarse_label=tfds.features.ClassLabel(num_classes=3))
    with pytest.raises(data.DataError, match=r"\['image'\] and its class labels \['coarse"):
        load_own(tmp_path / "two", {"train": part, "test": part}, two)
    with pytest.raises(data.DataError, match=r"labels -1\.\.-1; with 2 classes .* 0\.\.1"):
        load_own(tmp_path / "three", {"train": (part[0], [-1] * 6), "test": part}, own_features())
    with pytest.raises(data.DataError, match="cannot open 'no_such_set_of_images'"):
        data.load("tfds:no_such_set_of_images", data_dir=tmp_path)
