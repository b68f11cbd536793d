"""Folders of pictures in the state in which people have them: names, clutter, unused folders."""

import logging
import re

import pytest
from PIL import Image

from daso_tf import data


def picture(path, color=(0, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path, "PNG")


@pytest.fixture
def folder(tmp_path):
    """Two classes with 3 training and 2 test images, and 2 unlabeled images."""
    for name in ("cat", "dog"):
        for k in range(3):
            picture(tmp_path / "train" / name / f"{k}.png", (k, 0, 0))
        for k in range(2):
            picture(tmp_path / "test" / name / f"{k}.png", (0, k, 0))
    for k in range(2):
        picture(tmp_path / "unlabeled" / f"{k}.png", (0, 0, k))
    return tmp_path


def load(folder, **options):
    return data.load("image_folder", data_dir=folder, **{"resolution": 8, **options})


@pytest.mark.parametrize(
    ("part", "spelling"),
    [
        ("train", "Train"),
        ("train", "training"),
        ("test", "TEST"),
        ("test", "testing"),
        ("unlabeled", "Unlabeled"),
        ("unlabeled", "unlabelled"),
        ("unlabeled", "un-labelled"),
        ("validation", "val"),
        ("validation", "Valid"),
        ("validation", "Validation"),
    ],
)
def test_spellings_of_the_parts(folder, part, spelling):
    picture(folder / "validation" / "cat" / "0.png")
    (folder / part).rename(folder / "renamed")
    (folder / "renamed").rename(folder / spelling)
    loaded = load(folder)
    parts = (loaded.labeled, loaded.unlabeled, loaded.validation, loaded.test)
    assert [len(images) for images in parts] == [6, 2, 1, 4]


def test_two_folders_of_one_part_are_refused(folder):
    picture(folder / "validation" / "cat" / "0.png")
    picture(folder / "val" / "cat" / "0.png")
    message = r"val' and '.*validation' are both a folder of validation images.*Expected"
    with pytest.raises(data.DataError, match=f"(?s){message}"):
        load(folder)


def test_folders_that_are_not_used_are_listed(folder, caplog):
    picture(folder / "valdation" / "cat" / "0.png")
    (folder / "notes").mkdir()
    (folder / ".git").mkdir()
    with caplog.at_level(logging.WARNING, "absl"):
        assert load(folder).validation is None
    (message,) = caplog.messages
    assert message == (
        f"In '{folder}' only train, unlabeled, validation, test are used, and not 'notes', "
        "'valdation' (rename it to 'validation' if it is this part)"
    )


def test_a_folder_without_parts_shows_what_is_there(tmp_path):
    for name in ("cat", "dog", "tran"):
        picture(tmp_path / name / "0.png")
    expected = rf"no folder '{tmp_path}/train'.*Not used are 'cat', 'dog', 'tran' \(rename"
    with pytest.raises(
        data.DataError, match=rf"(?s){expected}.*'train'.*Expected\n  train/<class>"
    ):
        load(tmp_path)


def test_clutter_is_skipped_with_a_note_and_is_no_bad_file(folder, caplog):
    clutter = {
        "labels.csv": "path,label\n",
        "train/labels.csv": "path,label\n",
        "train/cat/Thumbs.db": "x",
        "train/dog/thumbs.db": "x",
        "train/cat/desktop.ini": "x",
        "train/cat/0.xmp": "<xml/>",
        "train/cat/0.xmp.json": "{}",
        "train/cat/1.XMP": "<xml/>",
        "test/dog/notes.txt": "x",
        "unlabeled/clip.mov": "x",
        "unlabeled/.DS_Store": "x",
    }
    for path, text in clutter.items():
        (folder / path).write_text(text)
    for path in ("train/@eaDir/cat", "train/cat/@eaDir/0.png", "unlabeled/__MACOSX", "test/@eaDir"):
        picture(folder / path / "thumbnail.jpg")
    picture(folder / "unlabeled" / "clip.thm")
    with caplog.at_level(logging.WARNING, "absl"):
        loaded = load(folder, max_bad_files=0)
    parts = (loaded.labeled, loaded.unlabeled, loaded.test)
    assert [len(images) for images in parts] == [6, 2, 4]
    assert loaded.class_names == ("cat", "dog")
    (message,) = caplog.messages
    assert message.startswith(f"In '{folder}' these are no pictures and are skipped: ")
    for path in ("labels.csv", "train/cat/Thumbs.db", "train/cat/0.xmp", "train/@eaDir"):
        assert repr(path) in message
    for more in ("1 more *.csv", "1 more *.xmp", "2 more @eaDir", "1 more kinds"):
        assert f"and {more}" in message
    assert "DS_Store" not in message


def test_a_picture_with_the_name_of_clutter_is_read(folder):
    picture(folder / "unlabeled" / "2.txt")
    assert len(load(folder).unlabeled) == 3


def test_a_folder_or_class_with_the_name_of_a_file_is_read(folder):
    picture(folder / "unlabeled" / "labels.csv" / "2.png")
    (folder / "train" / "dog").rename(folder / "train" / "thumbs.db")
    (folder / "test" / "dog").rename(folder / "test" / "thumbs.db")
    loaded = load(folder)
    assert loaded.class_names == ("cat", "thumbs.db")
    assert len(loaded.unlabeled) == 3


def test_other_files_are_still_bad_files(folder):
    (folder / "train" / "cat" / "x.heic").write_text("x")
    with pytest.raises(data.DataError, match=re.escape("x.heic' cannot be read")):
        load(folder, max_bad_files=0)
