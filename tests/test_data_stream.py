"""Images read from files when needed: the same batches as from memory, and unreadable files."""

import logging
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from command import arguments, run_train
from PIL import Image

from daso_tf import data
from daso_tf.run import learner

CIFAR10 = Path(__file__).parents[2] / "shared" / "data" / "cifar10_jpeg.tar.xz"
CLASSES = ("cat", "dog", "elk")


def write(path, value, size=(16, 16)):
    """Writes an image whose gray level identifies it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels[:8] = value  # a row of JPEG blocks
    Image.fromarray(pixels).save(
        path, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {})
    )
    return path


@pytest.fixture
def folder(tmp_path):
    """5, 4 and 3 labeled images, 30 unlabeled ones of several kinds, one test image per class."""
    for k, name in enumerate(CLASSES):
        for i in range(5 - k):
            write(tmp_path / "train" / name / f"{i}.png", 10 * k + i)
        write(tmp_path / "test" / name / "0.png", 100 + k)
    for i in range(30):
        write(tmp_path / "unlabeled" / f"{i:02}.{('jpg', 'png')[i % 2]}", 120 + i, (16 + i % 3, 17))
    return tmp_path


def load(folder, **options):
    return data.load("image_folder", data_dir=folder, **{"resolution": 16, **options})


def batches(loaded, steps, **options):
    options = {"batch_size": 3, "unlabeled_ratio": 3, "seed": 5, **options}
    return list(data.training_batches(loaded, steps=steps, **options).as_numpy_iterator())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-60])


def test_the_batches_are_those_from_memory(folder):
    held, streamed = load(folder, stream=False), load(folder, stream=True)
    assert isinstance(held.unlabeled, data.Images)
    assert isinstance(streamed.unlabeled, data.ImageFiles)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)
    for ours, theirs in zip(batches(streamed, 12), batches(held, 12), strict=True):
        np.testing.assert_array_equal(ours[0][0], theirs[0][0])
        np.testing.assert_array_equal(ours[0][1], theirs[0][1])
        np.testing.assert_array_equal(ours[1], theirs[1])
    ours, theirs = (data.evaluation_batches(part.test, 2) for part in (streamed, held))
    for (images, labels), (expected, expected_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_large_data_sets_are_streamed_by_default(folder, monkeypatch):
    needed = (12 + 30 + 3) * 16 * 16 * 3
    for there, kind in ((2 * needed, data.Images), (2 * needed - 1, data.ImageFiles)):
        monkeypatch.setattr(data.memory, "machine_memory", lambda there=there: there)
        assert isinstance(load(folder).labeled, kind)


def test_an_interrupted_stream_continues_where_it_stopped(folder):
    truncate(folder / "unlabeled" / "04.jpg")
    whole = batches(load(folder, stream=True), 10)
    rest = batches(load(folder, stream=True), 6, first_step=4)
    for ours, theirs in zip(rest, whole[4:], strict=True):
        np.testing.assert_array_equal(ours[0][1], theirs[0][1])


def levels(all_batches):
    """Which unlabeled images are in the batches, by their gray level."""
    corners = np.concatenate([unlabeled[:, 1, 1, 0] for (_, unlabeled), _ in all_batches]).astype(
        int
    )
    return [min(range(120, 150), key=lambda value: abs(value - corner)) for corner in corners]


@pytest.mark.parametrize("stream", [True, False])
def test_bad_files_are_left_out_counted_and_named(folder, stream, caplog):
    truncate(folder / "unlabeled" / "04.jpg")
    (folder / "unlabeled" / "07.png").write_bytes(b"")
    (folder / "unlabeled" / "11.png").write_text("not an image")
    with caplog.at_level(logging.WARNING, logger="absl"):
        loaded = load(folder, stream=stream)
        seen = levels(batches(loaded, 9))
    for name in ("04.jpg", "07.png", "11.png"):
        assert sum(name in message for message in caplog.messages) == 1
    assert "3 of 10 allowed" in caplog.text
    # A truncated file is found only when it is read; the next one then takes its place.
    assert len(loaded.unlabeled) == (28 if stream else 27)
    good = set(range(120, 150)) - {124, 127, 131}
    assert set(seen) == good
    one_pass = sorted(seen[: len(loaded.unlabeled)])
    assert one_pass == sorted([*good, 125] if stream else good)


@pytest.mark.parametrize("stream", [True, False])
def test_more_bad_files_than_allowed_stop_before_training(folder, stream):
    for name in ("01.png", "03.png"):
        (folder / "unlabeled" / name).write_bytes(b"")
    assert len(load(folder, stream=stream, max_bad_files=2).unlabeled) == 28
    with pytest.raises(data.DataError, match="2 image files cannot be read, and max_bad_files all"):
        load(folder, stream=stream, max_bad_files=1)


def test_more_bad_files_than_allowed_stop_the_stream_with_their_names(folder):
    loaded = load(folder, stream=True, max_bad_files=1)
    for name in ("02.jpg", "06.jpg"):  # damaged during training
        truncate(folder / "unlabeled" / name)
    message = "2 image files cannot be read"
    with pytest.raises(data.DataError, match=message) as caught, data.reading(loaded):
        batches(loaded, 9)
    assert "02.jpg" in str(caught.value)
    assert "06.jpg" in str(caught.value)


def test_other_errors_are_not_changed(folder):
    loaded = load(folder, stream=True)
    with pytest.raises(ZeroDivisionError), data.reading(loaded):
        batches(loaded, 1)
        1 / 0  # noqa: B018


@pytest.mark.parametrize("stream", [True, False])
def test_all_test_images_must_be_readable(folder, stream):
    (folder / "test" / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(data.DataError, match=r"(?s)test images must be.*dog/0\.png"):
        load(folder, stream=stream)


def test_only_unreadable_images_are_an_error(folder):
    for path in (folder / "unlabeled").iterdir():
        truncate(path)
    with pytest.raises(data.DataError, match=r"30 image files cannot be read|None of the image"):
        load(folder, stream=True, max_bad_files=29)


def test_files_that_break_during_training_stop_the_run_with_a_message(
    folder, tmp_path, monkeypatch, capsys
):
    def damage_then_build(*arguments, **more):
        for name in ("02.jpg", "06.jpg"):
            truncate(folder / "unlabeled" / name)
        return build_learner(*arguments, **more)

    build_learner = learner.build_learner
    monkeypatch.setattr(learner, "build_learner", damage_then_build)
    settings = {"labeled_head": 0, "labeled_imbalance": 1, "unlabeled_head": 0}
    settings |= {"unlabeled_imbalance": 1, "validation_size": 0, "resolution": 16, "batch_size": 4}
    settings |= {"stream": "true", "max_bad_files": 1, "steps": 8, "evaluate_every": 8}
    model_dir = tmp_path / "run"
    command = arguments(dataset="image_folder", data_dir=folder, model_dir=model_dir, **settings)
    assert run_train(*command) == 1
    said = capsys.readouterr().err
    assert "2 image files cannot be read, and max_bad_files allows 1" in said
    assert "06.jpg" in said
    assert "continues from the newest checkpoint" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not CIFAR10.exists(), reason="the CIFAR-10 JPEG files are not here")
def test_real_images_are_the_same_from_memory_and_from_files(tmp_path):
    with tarfile.open(CIFAR10) as archive:
        members = [m for m in archive if m.isfile() and re.search(r"/000\d\.jpg$", m.name)]
        archive.extractall(tmp_path, members, filter="data")
    (root,) = {path.parent for path in tmp_path.rglob("train")}
    settings = {"labeled_head": 4, "labeled_imbalance": 2, "unlabeled_head": 5}
    held, streamed = (
        data.load("image_folder", data_dir=root, resolution=32, stream=stream, **settings)
        for stream in (False, True)
    )
    assert len(held.class_names) == 10
    np.testing.assert_array_equal(held.labeled_counts, [4, 3, 3, 3, 2, 2, 2, 2, 2, 2])
    for ours, theirs in zip(batches(streamed, 9), batches(held, 9), strict=True):
        for side in (0, 1):
            np.testing.assert_array_equal(ours[0][side], theirs[0][side])
    first = root / "test" / held.class_names[0] / "0000.jpg"
    np.testing.assert_array_equal(held.test.images[0], np.asarray(Image.open(first)))
