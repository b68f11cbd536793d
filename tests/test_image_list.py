"""Lists of image files: which forms are read, what is in which part, what is refused."""

import csv
import io

import numpy as np
import pytest
from command import parsed
from PIL import Image

from daso_tf import data
from daso_tf.commands import describe, terminal

# Path, label, part; the red level of each picture is its number.
ROWS = [
    ("a/0.png", "cat", ""),
    ("a/1.png", "dog", "train"),
    ("b/2.png", "", ""),
    ("b/3.png", "", "Unlabelled"),
    ("b/4.png", "dog", "unlabeled"),
    ("5, 6.png", "cat", "val"),
    ("7.png", "dog", "TEST"),
    ("8.png", "cat", "test"),
    ("9.png", "dog", ""),
]


@pytest.fixture
def folder(tmp_path):
    for number, (path, _, _) in enumerate(ROWS):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / path)
    return tmp_path


def written(folder, rows, header=None, delimiter=",", encoding="utf-8", end="\n"):
    """Writes a list, and returns its path."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(
        [*([header] if header else []), *rows]
    )
    path = folder / "labels.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def load(labels, **options):
    return data.load("image_list", labels=labels, **{"resolution": 8, **options})


def numbers(images):
    return images.take(np.arange(len(images)))[:, 0, 0, 0].tolist()


def check(loaded):
    assert loaded.class_names == ("cat", "dog")
    assert numbers(loaded.labeled) == [8, 0, 1]
    assert loaded.labeled.labels.tolist() == [1, 0, 1]
    assert numbers(loaded.unlabeled) == [2, 3, 4]
    assert loaded.unlabeled.labels.tolist() == [-1, -1, 1]
    assert (numbers(loaded.validation), loaded.validation.labels.tolist()) == ([5], [0])
    assert (numbers(loaded.test), loaded.test.labels.tolist()) == ([6, 7], [1, 0])


@pytest.mark.parametrize(
    "header", [None, ("path", "label", "part"), ("File Name", "CLASS", "Split")]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("encoding", "end"),
    [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-8", "\r")],
)
def test_every_form_of_the_list(folder, header, delimiter, encoding, end):
    check(load(written(folder, ROWS, header, delimiter, encoding, end)))
    unlabeled_first = sorted(ROWS, key=lambda row: row[1:])
    check(load(written(folder, unlabeled_first, header, delimiter, encoding, end)))


def test_a_header_may_have_any_order_and_more_columns(folder, caplog):
    rows = [(3, part, label, path) for path, label, part in ROWS]
    check(load(written(folder, rows, ("width", "subset", "category", "image"))))
    assert "columns that are not used: width" in caplog.text


def test_lines_in_any_order_blank_and_repeated_lines(folder, caplog):
    rows = [*ROWS[::-1], ("", "", ""), ("./a/../a/0.png", " cat ", "training")]
    check(load(written(folder, rows)))
    assert "1 lines of the list repeat an image" in caplog.text


def test_labels_that_may_be_one_class_are_noted(folder, caplog):
    rows = [("a/0.png", "Black cat"), ("a/1.png", "black_cat"), ("9.png", "dog"), ("8.png", "")]
    assert load(written(folder, rows)).class_names == ("Black cat", "black_cat", "dog")
    assert "different classes: 'Black cat', 'black_cat'." in caplog.text


def test_paths_are_relative_to_data_dir_or_absolute_or_of_windows(folder, tmp_path):
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    check(load(written(elsewhere, ROWS), data_dir=folder))
    rows = [(f"{folder}/{path}", label, part) for path, label, part in ROWS]
    assert len(load(written(elsewhere, rows)).labeled) == 3
    rows = [(path.replace("/", "\\"), label, part) for path, label, part in ROWS]
    check(load(written(folder, rows)))


def test_without_a_part_column_unlabeled_images_have_no_label(folder):
    loaded = load(written(folder, [row[:2] for row in ROWS]))
    assert (len(loaded.labeled), len(loaded.unlabeled)) == (7, 2)
    assert (loaded.validation, loaded.test) == (None, None)
    labeled = [row[:2] for row in ROWS if row[1]]
    split = load(written(folder, labeled), labeled_head=1, unlabeled_head=1)
    assert (len(split.labeled), split.unlabeled_counts.tolist()) == (2, [1, 1])


def test_whole_numbers_are_classes_in_their_order(folder):
    rows = [(path, k + 8 if label else "", "") for k, (path, label, _) in enumerate(ROWS)]
    loaded = load(written(folder, rows))
    assert loaded.class_names == ("8", "9", "12", "13", "14", "15", "16")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            [("a/0.png", "dog", "")],
            "line 10 has 'a/0.png' with the label 'dog' in train, but line 1 has it with the "
            "label 'cat' in train",
        ),
        ([("a/0.png", "", "")], "line 10 .* the label '' in unlabeled, but line 1 has it"),
        ([("a/0.png", "cat", "test")], "line 10 .* in test, but line 1 has it .* in train"),
        (
            [("9.png", "cat", "evaluation")],
            "line 10 has the part 'evaluation'; it must be train, unlabeled, validation, test, or "
            "empty",
        ),
        (
            [("", "", ""), ("none.png", "cat", "")],
            "line 11 has 'none.png', and there is no such file.*Paths are relative to",
        ),
        ([("a", "cat", "")], "line 10 has 'a', and there is no such file"),
        ([("none\0.png", "cat", "")], "line 10 has 'none.*', and there is no such file"),
        ([("x.png", "cat", "")] * 9, r"9 wrong lines:\n  line 10.*\.\.\. and 4 more"),
        ([("7.png", "", "test")], "line 10 has no label, which a test image needs"),
        ([("a/new.png", "owl", "test")], "line 10 has the label 'owl', which no training image"),
        ([("a.png", "b", "test", "c")], "line 10 has 4 columns, and there may be 3.*in quotes"),
    ],
)
def test_wrong_lines_are_refused_with_their_numbers(folder, more, message):
    Image.new("RGB", (8, 8)).save(folder / "a" / "new.png")
    with pytest.raises(data.DataError, match=f"(?s){message}.*Expected a CSV or TSV file"):
        load(written(folder, [*ROWS, *more]))


def test_files_that_are_no_list_are_refused(folder):
    with pytest.raises(data.DataError, match=r"line 1 has 'img', .*header must name the columns"):
        load(written(folder, ROWS, ("img", "y")))
    with pytest.raises(data.DataError, match="2 columns for the label: 'label', 'class'"):
        load(written(folder, [(*row, "") for row in ROWS], ("path", "label", "class", "part")))
    (folder / "labels.csv").write_text('a/0.png,"cat')
    with pytest.raises(data.DataError, match=r"labels\.csv': line 1: unexpected end"):
        load(folder / "labels.csv")
    (folder / "labels.csv").write_bytes(b"\xff\x81")
    with pytest.raises(data.DataError, match=r"labels\.csv' is not text in UTF-8"):
        load(folder / "labels.csv")
    with pytest.raises(data.DataError, match="no labeled training image"):
        load(written(folder, []))
    with pytest.raises(data.DataError, match=r"none\.csv' cannot be read: .*No such file"):
        load(folder / "none.csv")
    with pytest.raises(data.DataError, match="image_list needs labels"):
        data.load("image_list", data_dir=folder)
    with pytest.raises(data.DataError, match="labels='x' is an option of image_list"):
        data.load("image_folder", data_dir=folder, labels="x")


def test_from_the_command_line(folder, capsys, monkeypatch):
    monkeypatch.setenv("LISTS", str(folder))
    written(folder, ROWS)
    given = ["--dataset=image_list", "--labels=$LISTS/labels.csv", "--resolution=8"]
    assert parsed(*given).labels == f"{folder}/labels.csv"
    assert terminal.call(describe.COMMAND, [*given, f"--picture={folder}/x.png"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "3", "3", "1", "2"] in rows
