"""Folders of images: which files are found, how they are split, what is refused."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from daso_tf import data
from daso_tf.data import long_tail, memory


def write(path, color=(0, 0, 0), size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes with 12 and 10 training images; red is the class, green the image."""
    for label, (name, count) in enumerate([("cat", 12), ("dog", 10)]):
        for i in range(count):
            write(tmp_path / "train" / name / f"{i:02}.png", (label, i, 0))
        for i in range(3):
            write(tmp_path / "test" / name / f"{i}.png", (label, i, 255))
    return tmp_path


def load(folder, **options):
    options = {"labeled_head": 3, "unlabeled_head": 5, "resolution": 8} | options
    return data.load("image_folder", data_dir=folder, **options)


def test_labeled_and_unlabeled_images_come_from_train(folder):
    loaded = load(folder, labeled_imbalance=3, unlabeled_imbalance=5, validation_size=4)
    assert loaded.class_names == ("cat", "dog")
    np.testing.assert_array_equal(loaded.labeled_counts, [3, 1])
    np.testing.assert_array_equal(loaded.unlabeled_counts, [5, 1])
    assert (len(loaded.validation), len(loaded.test)) == (4, 6)
    seen = set()
    for part in (loaded.labeled, loaded.unlabeled, loaded.validation):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], part.labels)
        seen |= {tuple(image[0, 0]) for image in part.images}
    assert len(seen) == 4 + 6 + 4
    assert (loaded.test.images[:, 0, 0, 2] == 255).all()


def test_statistics_are_those_of_the_training_images(folder):
    loaded = load(folder)
    pixels = np.concatenate([loaded.labeled.images, loaded.unlabeled.images]).reshape(-1, 3) / 255
    np.testing.assert_allclose(loaded.mean, pixels.mean(0), atol=1e-12)
    # Red varies by less than one level, and blue not at all.
    np.testing.assert_allclose(loaded.std, np.maximum(pixels.std(0), 1 / 255), rtol=1e-9)


def test_all_images_of_an_unlabeled_folder_are_used(folder):
    for name in ("a.png", "deep/er/b.png", "deep/c.gif"):
        write(folder / "unlabeled" / name)
    loaded = load(folder, labeled_head=0, unlabeled_head=0)
    np.testing.assert_array_equal(loaded.labeled_counts, [12, 10])
    np.testing.assert_array_equal(loaded.unlabeled.labels, [-1, -1, -1])
    assert loaded.unlabeled_counts is None
    thinned = load(folder, labeled_head=8, labeled_imbalance=4, unlabeled_head=0)
    np.testing.assert_array_equal(thinned.labeled_counts, [8, 2])
    with pytest.raises(data.DataError, match="unlabeled images of unknown classes"):
        load(folder)


def test_a_validation_folder_is_used_or_contradicted(folder):
    write(folder / "validation" / "dog" / "x.png", (9, 9, 9))
    loaded = load(folder)
    np.testing.assert_array_equal(loaded.validation.labels, [1])
    assert (loaded.validation.images == 9).all()
    with pytest.raises(data.DataError, match="validation_size=2, but the data has"):
        load(folder, validation_size=2)


def test_hidden_files_are_left_out(folder):
    (folder / "train" / ".DS_Store").write_bytes(b"")
    (folder / "train" / "cat" / "._00.png").write_bytes(b"x")
    (folder / "train" / ".cache").mkdir()
    loaded = load(folder, labeled_head=6, labeled_imbalance=2, unlabeled_head=6)
    assert loaded.class_names == ("cat", "dog")
    assert len(loaded.labeled) + len(loaded.unlabeled) == 12 + 9  # every cat but the hidden one


def sorted_by_name(entries):
    return sorted(entries, key=lambda entry: entry.name)


def test_the_split_does_not_depend_on_the_order_of_the_file_system(folder, monkeypatch):
    expected = load(folder).labeled.images
    scanned = os.scandir
    for order in (sorted_by_name, lambda entries: sorted_by_name(entries)[::-1]):
        monkeypatch.setattr(os, "scandir", lambda path, order=order: order(scanned(path)))
        np.testing.assert_array_equal(load(folder).labeled.images, expected)


def test_only_selected_images_are_read(folder):
    chosen = load(folder)
    used = {tuple(i[0, 0, :2]) for p in (chosen.labeled, chosen.unlabeled) for i in p.images}
    unused = next((0, i) for i in range(12) if (0, i) not in used)
    (folder / "train" / "cat" / f"{unused[1]:02}.png").write_bytes(b"broken")
    np.testing.assert_array_equal(load(folder).labeled.images, chosen.labeled.images)


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ([(20, 10)], {}, (10, 20)),  # one size, within four times the resolution: kept
        ([(33, 10)], {}, (8, 8)),  # beyond it
        ([(20, 10), (8, 8)], {}, (8, 8)),  # several sizes
        ([(20, 10)], {"source_size": 6}, (6, 6)),
        ([(33, 10)], {"resolution": 9}, (10, 33)),
    ],
)
def test_size_at_which_images_are_kept(folder, sizes, options, expected):
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        write(path, size=sizes[i % len(sizes)])
    loaded = load(folder, **options)
    for part in (loaded.labeled, loaded.unlabeled, loaded.test):
        assert part.size == expected


def test_more_images_than_fit_into_memory_are_refused_with_the_calculation(folder, monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 2**20)
    needed = r"22 images x 200 x 200 x 3 bytes are 0\.0 GiB, and this machine has 0\.0 GiB"
    with pytest.raises(data.DataError, match=needed):
        load(folder, source_size=200, stream=False)


def test_machine_memory_is_plausible():
    assert 2**28 < memory.machine_memory() < 2**50


def test_linked_folders_are_followed_once(folder):
    write(folder / "elsewhere" / "a.png")
    (folder / "unlabeled").mkdir()
    (folder / "unlabeled" / "link").symlink_to(folder / "elsewhere")
    (folder / "unlabeled" / "again").symlink_to(folder / "elsewhere")
    (folder / "elsewhere" / "up").symlink_to(folder / "unlabeled")
    assert len(load(folder, labeled_head=0, unlabeled_head=0).unlabeled) == 1


def test_unusual_names(folder):
    write(folder / "train" / "cat" / "new\nline ü 猫.png")
    write(folder / "train" / "é\n" / "x.png")
    for i in range(2):
        write(folder / "train" / "é\n" / f"{i}.png")
    assert load(folder, labeled_head=1, unlabeled_head=2).class_names == ("cat", "dog", "é\n")


def remove(path):
    shutil.rmtree(path)


REFUSALS = {
    "no folder": (lambda root: remove(root / "train"), r"no folder '.*train'.*Expected\n +train/"),
    "dangling link": (
        lambda root: (root / "test" / "dog" / "x.png").symlink_to("nowhere"),
        r"x\.png' cannot be read .*No such file",
    ),
    "link to itself": (
        lambda root: (root / "test" / "dog" / "x.png").symlink_to("x.png"),
        r"x\.png' cannot be read .*symbolic links",
    ),
    "unreadable image": (
        lambda root: (root / "test" / "dog" / "1.png").write_bytes(b"text"),
        r"test/dog/1\.png' cannot be read as an image",
    ),
    "class without images": (
        lambda root: (root / "train" / "eel").mkdir(),
        "Class 'eel' has no labeled image",
    ),
    "test class that train lacks": (
        lambda root: write(root / "test" / "eel" / "x.png"),
        r"test/eel' is a class that is not in train \(2 classes: 'cat', 'dog'\)",
    ),
    "one class": (lambda root: remove(root / "train" / "dog"), "1 class folders"),
    "file next to classes": (
        lambda root: write(root / "train" / "x.png"),
        r"x\.png' is not in the folder of a class",
    ),
    "folder in a class": (
        lambda root: (root / "train" / "cat" / "x.jpg").mkdir(),
        r"x\.jpg' is a folder",
    ),
    "empty unlabeled folder": (
        lambda root: (root / "unlabeled").mkdir(),
        "unlabeled' has no images",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_broken_folders_are_explained(folder, case):
    damage, message = REFUSALS[case]
    damage(folder)
    with pytest.raises(data.DataError, match=f"(?s){message}"):
        load(folder)


def test_missing_place_or_sizes_are_explained(folder):
    with pytest.raises(data.DataError, match="needs data_dir"):
        data.load("image_folder")
    with pytest.raises(data.DataError, match="no folder '/nowhere/at/all'"):
        data.load("image_folder", data_dir="/nowhere/at/all")
    with pytest.raises(data.DataError, match="both labeled_head and unlabeled_head"):
        load(folder, unlabeled_head=0)
    with pytest.raises(data.DataError, match=r"Class 'dog' has 10 .* but 11 are requested"):
        load(folder, labeled_head=6)
    with pytest.raises(data.DataError, match="sets are digits, image_folder, image_list"):
        data.load("imagenet")
    with pytest.raises(data.DataError, match="source_size=-1"):
        load(folder, source_size=-1)


def test_digits():
    loaded = data.load(
        "digits", labeled_head=30, labeled_imbalance=10, unlabeled_head=100, resolution=8
    )
    assert loaded.class_names == tuple("0123456789")
    np.testing.assert_array_equal(loaded.labeled_counts, long_tail.class_counts(30, 10, 10))
    np.testing.assert_array_equal(loaded.unlabeled_counts, [100] * 10)
    np.testing.assert_array_equal(np.bincount(loaded.test.labels), [36] * 10)
    parts = [part.images for part in (loaded.labeled, loaded.unlabeled, loaded.test)]
    images = np.concatenate(parts)
    assert images.shape[1:] == (8, 8, 3)
    assert (images.min(), images.max()) == (0, 255)
    np.testing.assert_array_equal(images, images[..., :1].repeat(3, -1))
    assert len(np.unique(images, axis=0)) == len(images)
    enlarged = data.load("digits", labeled_head=9, unlabeled_head=9, source_size=16)
    assert enlarged.test.size == (16, 16)
    expected = Image.fromarray(loaded.test.images[5]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(enlarged.test.images[5], np.asarray(expected))
