"""Semi-Aves with few images written by the test, and its official lists if they are available."""

import json
import lzma
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command import arguments, run_train
from PIL import Image

from daso_tf import data
from daso_tf.data.sources import open_source
from daso_tf.data.sources.semi_aves import read_lists

OFFICIAL = Path(__file__).parents[2] / "shared" / "data" / "semi_aves"

# How many images of each class a list has: class 0 is not the largest.
PER_CLASS = {"l_train": lambda k: 1 + k % 2, "val": lambda k: 1, "test": lambda k: 1}
LISTS = ("l_train", "val", "l_train_val", "test", "u_train_in", "u_train_out")


def list_lines(name):
    """The lines of a published list: training and validation images share their folders."""
    if name == "l_train_val":
        return sorted(list_lines("l_train") + list_lines("val"))
    if name.startswith("u_"):
        return [f"{name}/{i}.jpg -1\n" for i in range({"u_train_in": 5, "u_train_out": 7}[name])]
    lines = []
    for k in range(200):
        stem = f"test/test {k} " if name == "test" else f"trainval_images/{k}/{name}"
        lines += [f"{stem}{i}.jpg {k}\n" for i in range(PER_CLASS[name](k))]
    return lines


def color(label):
    """A color per class, different enough from the others to be recognized after JPEG."""
    return tuple(50 * (label // 6**channel % 6) for channel in range(3))


def write_tree(root):
    """Writes lists and images. The color shows the class; white means that it is not known."""
    for name in LISTS:
        (root / f"{name}.txt").write_text("".join(list_lines(name)))
        for path, label in (line.rsplit(" ", 1) for line in list_lines(name)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shown = "white" if int(label) < 0 else color(int(label))
            Image.new("RGB", (8, 8), shown).save(root / path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("semi_aves")
    write_tree(root)
    return root


@pytest.fixture
def own(tree, tmp_path):
    """A copy of the tree in which lists can be replaced and folders of images removed."""
    for entry in tree.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def replace(root, name, content):
    path = root / f"{name}.txt"
    path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_loads_the_lists_as_they_are(tree):
    loaded = data.load("semi_aves", data_dir=tree, resolution=8)
    assert loaded.class_names == tuple(map(str, range(200)))
    np.testing.assert_array_equal(loaded.labeled_counts, [1, 2] * 100)
    np.testing.assert_array_equal(np.bincount(loaded.validation.labels), [1] * 200)
    np.testing.assert_array_equal(np.bincount(loaded.test.labels), [1] * 200)
    np.testing.assert_array_equal(loaded.unlabeled.labels, [-1] * 5)
    for part in (loaded.labeled, loaded.validation, loaded.test):
        expected = [color(label) for label in part.labels]
        assert np.abs(part.images.mean((1, 2)) - expected).max() < 10
    assert (loaded.unlabeled.images > 245).all()
    # The statistics of the ImageNet weights of torchvision.
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.std == (0.229, 0.224, 0.225)


def files(pool, root):
    return sorted(os.path.relpath(file, root) for file in pool.files)


def listed(*names):
    return sorted(line.rsplit(" ", 1)[0] for name in names for line in list_lines(name))


def test_images_of_other_species_measure_how_well_they_are_told(tree):
    source = open_source("semi_aves", tree, unlabeled="in+out")
    assert set(files(source.unknown, tree)) <= set(listed("u_train_out"))
    assert len(source.unknown.labels) == min(len(listed("u_train_out")), len(source.test.labels))
    assert (source.unknown.labels == -1).all()
    assert open_source("semi_aves", tree).unknown is None


@pytest.mark.parametrize("unlabeled", ["in", "in+out"])
@pytest.mark.parametrize("labeled", ["l_train", "l_train_val"])
def test_which_lists_are_taken(tree, labeled, unlabeled):
    source = open_source("semi_aves", tree, labeled=labeled, unlabeled=unlabeled)
    assert files(source.train, tree) == listed(labeled)
    assert files(source.test, tree) == listed("test")
    outside = ["u_train_out"] * (unlabeled == "in+out")
    assert files(source.unlabeled, tree) == listed("u_train_in", *outside)
    if labeled == "l_train":
        assert files(source.validation, tree) == listed("val")
    else:
        assert source.validation is None  # these images are trained on


def test_the_comment_of_the_flag_file_lists_the_options(tree):
    comment = (Path(__file__).parents[1] / "flags" / "semi_aves.cfg").read_text()
    choices = dict(re.findall(r"^#   \S.*  --(labeled|unlabeled)=(\S+)$", comment, re.MULTILINE))
    assert choices == {"labeled": "l_train", "unlabeled": "in+out"}
    assert "\n--labeled=l_train_val\n" in comment  # what the file sets
    source = open_source("semi_aves", tree, **choices | {"labeled": "l_train_val"})
    assert files(source.train, tree) == listed("l_train", "val")
    assert files(source.unlabeled, tree) == listed("u_train_in", "u_train_out")


def test_other_choices_are_refused(tree):
    with pytest.raises(
        data.DataError, match="labeled='val'; for semi_aves it must be l_train or l_train_val"
    ):
        open_source("semi_aves", tree, labeled="val")
    with pytest.raises(
        data.DataError, match=r"unlabeled='out'; for semi_aves it must be in or in\+out"
    ):
        open_source("semi_aves", tree, unlabeled="out")
    with pytest.raises(
        data.DataError, match=r"unlabeled='in' is an option of semi_aves; 'digits' has"
    ):
        open_source("digits", None, unlabeled="in")
    with pytest.raises(data.DataError, match="unlabeled images of unknown classes"):
        data.load("semi_aves", data_dir=tree, unlabeled_head=5)
    with pytest.raises(data.DataError, match="validation_size=200, but the data has"):
        data.load("semi_aves", data_dir=tree, validation_size=200)


def test_compressed_lists(own):
    for name in LISTS:
        (own / f"{name}.txt").unlink()
        (own / f"{name}.txt.xz").write_bytes(lzma.compress("".join(list_lines(name)).encode()))
    assert files(open_source("semi_aves", own).train, own) == listed("l_train")
    whole = (own / "val.txt.xz").read_bytes()
    for broken in (whole[:-30], b"text", whole[:20] + bytes(20) + whole[40:]):
        (own / "val.txt.xz").write_bytes(broken)
        with pytest.raises(data.DataError, match=r"val\.txt\.xz' cannot be read"):
            open_source("semi_aves", own)


def test_names_of_the_classes(own):
    names = [f"Genus_species{k}" for k in range(200)]
    lines = [f"{k} {name}\n" for k, name in enumerate(names)]
    path = own / "species_names.txt"
    path.write_text("".join(lines))
    assert open_source("semi_aves", own).class_names == tuple(names)
    for wrong, message in [
        (lines[:-1], "names 199 classes; it must name 200"),
        (lines[:7] + lines[8:], "line 8 is '8 Genus_species8', not '7 NAME'"),
        (["0 Genus_species1\n", *lines[1:]], "line 2 is '1 Genus_species1', .* with a new name"),
        (["0\n", *lines[1:]], "line 1 is '0'"),
    ]:
        path.write_text("".join(wrong))
        with pytest.raises(data.DataError, match=rf"(?s)species_names\.txt' .*{message}"):
            open_source("semi_aves", own)


def test_byte_order_mark_line_ends_blank_lines_and_spaces(own):
    text = "\ufeff" + "\r\n".join(["", *map(str.strip, list_lines("test")), "  ", ""])
    replace(own, "test", text)
    source = open_source("semi_aves", own)
    assert files(source.test, own) == listed("test")
    np.testing.assert_array_equal(source.test.labels, np.arange(200))
    assert any(" " in os.path.basename(file) for file in source.test.files)


WRONG = {
    "one column": ("test", "test/1.jpg\n", "line 2 is 'test/1.jpg', not 'PATH LABEL'"),
    "a table": ("test", "test/1.jpg\t5\n", r"line 2 is 'test/1.jpg\t5', not 'PATH LABEL'"),
    "other order": ("test", "5 test/1.jpg\n", "label 'test/1.jpg', not a class from 0 to 199"),
    "no number": ("test", "test/1.jpg five\n", "label 'five', not a class from 0 to 199"),
    "no class": ("val", "val/1.jpg 200\n", "label '200', not a class"),
    "unknown class": ("l_train", "x/1.jpg -1\n", "label '-1', not a class from 0 to 199"),
    "known class": ("u_train_in", "x/1.jpg 5\n", "label '5', not -1 for an image of unknown"),
    "float": ("test", "test/1.jpg 5.0\n", "label '5.0'"),
    "other digits": ("test", "test/1.jpg \uff15\n", "label '\uff15'"),
    "parent": ("test", "test/../../etc/x.jpg 5\n", "path 'test/../../etc/x.jpg', which must be"),
    "absolute": ("test", "/etc/x.jpg 5\n", "path '/etc/x.jpg', which must be relative"),
    "not plain": ("test", "./test//x.jpg 5\n", "path './test//x.jpg', which must be"),
    "null": ("test", "test/\0.jpg 5\n", r"path 'test/\x00.jpg', which must be"),
    "same again": (
        "u_train_in",
        "u_train_in/0.jpg -1\n",
        "'u_train_in/0.jpg', which is already in u_train_in",
    ),
    "leak": (
        "test",
        "trainval_images/7/val0.jpg 7\n",
        "'trainval_images/7/val0.jpg', which is already in val",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_lines_are_named(own, case):
    name, line, message = WRONG[case]
    first, *others = list_lines(name)
    replace(own, name, first + line + "".join(others))
    with pytest.raises(data.DataError) as refusal:
        open_source("semi_aves", own)
    assert f"{name}.txt' has 1 wrong line:\n  line 2 " in str(refusal.value)
    assert message in str(refusal.value)


def test_wrong_lines_are_counted(own):
    replace(own, "test", "".join(line.replace(" ", ",") for line in list_lines("test")))
    message = r"has 200 wrong lines:\n  line 1 [^\n]*(\n  line \d [^\n]*){4}\n\.\.\. and 195 more"
    with pytest.raises(data.DataError, match=message):
        open_source("semi_aves", own)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfd\0t", "cannot be read: .*UTF-8"), (b"\n", "lists no images")],
)
def test_a_list_that_is_empty_or_no_text_is_refused(own, content, message):
    replace(own, "val", content)
    with pytest.raises(data.DataError, match=rf"val\.txt' {message}"):
        open_source("semi_aves", own)


def test_missing_lists_are_named_together(own):
    (own / "val.txt").unlink()
    (own / "u_train_in.txt").unlink()
    with pytest.raises(data.DataError, match=r"missing .*: val\.txt, u_train_in\.txt\. Expected"):
        open_source("semi_aves", own)
    with pytest.raises(data.DataError, match=r"missing or cannot be accessed: u_train_in\.txt\."):
        open_source("semi_aves", own, labeled="l_train_val")
    with pytest.raises(data.DataError, match="needs data_dir"):
        data.load("semi_aves")
    with pytest.raises(data.DataError, match=r": l_train\.txt, val\.txt, test\.txt"):
        data.load("semi_aves", data_dir="/nowhere/at/all")


def test_missing_images_are_counted_and_named(tmp_path):
    write_tree(tmp_path)
    for i in range(6):
        (tmp_path / "u_train_out" / f"{i}.jpg").unlink()
    (tmp_path / "u_train_in" / "3.jpg").unlink()
    (tmp_path / "u_train_in" / "3.jpg").mkdir()  # no file
    (tmp_path / "test" / "test 9 0.jpg").unlink()
    (tmp_path / "test" / "test 9 0.jpg").symlink_to("nowhere")
    (tmp_path / "trainval_images" / "0").rename(tmp_path / "elsewhere")
    with pytest.raises(data.DataError) as refusal:
        open_source("semi_aves", tmp_path, unlabeled="in+out")
    assert str(refusal.value).splitlines()[1:-1] == [
        "  l_train: 1 of 300 images, such as 'trainval_images/0/l_train0.jpg'",
        "  val: 1 of 200 images, such as 'trainval_images/0/val0.jpg'",
        "  test: 1 of 200 images, such as 'test/test 9 0.jpg'",
        "  u_train_in: 1 of 5 images, such as 'u_train_in/3.jpg'",
        "  u_train_out: 6 of 7 images, such as "
        + ", ".join(f"'u_train_out/{i}.jpg'" for i in range(5)),
    ]


def test_a_folder_that_leads_to_itself_is_named(own):
    (own / "u_train_in").unlink()
    (own / "u_train_in").symlink_to("u_train_in")
    with pytest.raises(data.DataError, match="u_train_in' cannot be listed"):
        open_source("semi_aves", own)


@pytest.fixture(scope="module")
def official():
    if not OFFICIAL.is_dir():
        pytest.skip("the official lists are not available")
    return OFFICIAL


def test_official_lists(official):
    lists = {name: read_lists(official, [name])[name] for name in LISTS}
    assert {name: len(lists[name].paths) for name in LISTS} == {
        "l_train": 3959,
        "val": 2000,
        "l_train_val": 5959,
        "test": 8000,
        "u_train_in": 26640,
        "u_train_out": 122208,
    }
    counts = np.bincount(lists["l_train"].labels)
    assert (len(counts), counts.min(), counts.max()) == (200, 5, 43)
    assert counts.argmax() == 23  # classes are not sorted by size
    np.testing.assert_array_equal(np.bincount(lists["val"].labels), [10] * 200)
    np.testing.assert_array_equal(np.bincount(lists["test"].labels), [40] * 200)

    def pairs(name):
        return set(zip(lists[name].paths, lists[name].labels.tolist(), strict=True))

    assert pairs("l_train_val") == pairs("l_train") | pairs("val")
    # No image is in two of the lists of a run; that would be refused.
    read_lists(official, ["l_train", "val", "test", "u_train_in", "u_train_out"])
    read_lists(official, ["l_train_val", "test", "u_train_in", "u_train_out"])


def test_official_lists_without_images(official):
    with pytest.raises(data.DataError) as refusal:
        open_source("semi_aves", official, unlabeled="in+out")
    missing = [line.split(" images")[0].strip() for line in str(refusal.value).splitlines()[1:-1]]
    assert missing == [
        "l_train: 3,959 of 3,959",
        "val: 2,000 of 2,000",
        "test: 8,000 of 8,000",
        "u_train_in: 26,640 of 26,640",
        "u_train_out: 122,208 of 122,208",
    ]


def test_the_command_trains_from_the_files(tree, tmp_path):
    settings = {
        "dataset": "semi_aves",
        "labeled_head": 0,
        "labeled_imbalance": 1,
        "unlabeled_head": 0,
        "unlabeled_imbalance": 1,
        "validation_size": 0,
        "unlabeled": "in+out",
        "weak_view": "random_resized_crop",
        "source_size": 10,
        "batch_size": 4,
        "stream": "true",
        "steps": 2,
        "pretrain_steps": 1,
        "evaluate_every": 2,
    }
    assert run_train(*arguments(**settings, data_dir=tree, model_dir=tmp_path / "run")) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["labeled_counts"] == [1, 2] * 100
    assert [entry["step"] for entry in results["evaluations"]] == [2]
    assert len(results["evaluations"][0]["validation"]["recall"]) == 200
