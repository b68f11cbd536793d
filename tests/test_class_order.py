"""The order of classes in a long-tailed split: by size, as published, or as given."""

import numpy as np
import pytest
from command import arguments, completed
from PIL import Image

from daso_tf import data
from daso_tf.data.long_tail import LongTail, split
from daso_tf.run.flags_file import changes_since, write_flags_file

NAMES = ["ant", "bee", "cat"]


def counts(there, names=NAMES, listed=False, unlabeled_from_train=True, **sizes):
    """Labeled and unlabeled images of each class."""
    labels = np.repeat(np.arange(len(there)), there)
    parts = split(
        labels,
        names,
        LongTail(**sizes),
        unlabeled_from_train=unlabeled_from_train,
        seed=0,
        listed=listed,
    )
    labeled, unlabeled = (
        np.bincount(labels[part], minlength=len(there)).tolist()
        for part in (parts.labeled, parts.unlabeled)
    )
    return labeled, unlabeled


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ((6, 12, 30), [1, 3, 10]),
        ((30, 12, 6), [10, 3, 1]),
        ((12, 13, 60), [1, 3, 10]),
        ((30, 30, 30), [10, 3, 1]),  # classes of equal size keep their order
        ((12, 30, 12), [3, 10, 1]),
    ],
)
def test_the_largest_class_is_the_head(there, expected):
    sizes = {"labeled_head": 10, "labeled_imbalance": 10}
    assert counts(there, **sizes, unlabeled_from_train=False)[0] == expected


def test_the_unlabeled_images_follow_the_same_order_or_its_reverse():
    sizes = {"labeled_head": 4, "labeled_imbalance": 4, "unlabeled_head": 9}
    sizes["unlabeled_imbalance"] = 9
    assert counts((20, 12, 30), **sizes) == ([2, 1, 4], [3, 1, 9])
    assert counts((20, 12, 30), **sizes, reverse_unlabeled=True) == ([2, 1, 4], [3, 9, 1])


def test_a_given_order_comes_first(tmp_path):
    sizes = {"labeled_head": 4, "labeled_imbalance": 4, "unlabeled_head": 5}
    order = ["bee", "cat", "ant"]
    file = tmp_path / "order.txt"
    file.write_bytes(b"\xef\xbb\xbfbee\r\n\r\ncat \r\nant")
    for given in (order, tuple(order), file, str(file)):
        for listed in (True, False):
            labeled, _ = counts((30, 30, 60), **sizes, class_order=given, listed=listed)
            assert labeled == [1, 4, 2]


def test_benchmarks_have_their_published_order():
    """The digits' classes differ in size, and the head class is still that of the digit 0."""
    sizes = {"labeled_head": 40, "labeled_imbalance": 10, "unlabeled_head": 50}
    loaded = data.load("digits", **sizes, resolution=8)
    assert loaded.labeled_counts.tolist() == [40, 30, 23, 18, 14, 11, 8, 6, 5, 4]
    backwards = [str(k) for k in range(9, -1, -1)]
    loaded = data.load("digits", **sizes, resolution=8, class_order=backwards)
    assert loaded.labeled_counts.tolist() == [4, 5, 6, 8, 11, 14, 18, 23, 30, 40]


def test_folders_have_the_order_of_their_sizes(tmp_path):
    for name, count in zip(NAMES, (6, 13, 30), strict=True):
        for k in range(count):
            for part in ("train", "test")[: 2 if k == 0 else 1]:
                path = tmp_path / part / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (k, 0, 0)).save(path)
    sizes = {"labeled_head": 10, "labeled_imbalance": 10, "unlabeled_head": 20}
    more = {"unlabeled_imbalance": 4, "resolution": 8}
    loaded = data.load("image_folder", data_dir=tmp_path, **sizes, **more)
    assert loaded.labeled_counts.tolist() == [1, 3, 10]
    assert loaded.unlabeled_counts.tolist() == [5, 10, 20]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant\ndgo\nbee", "line 2 is 'dgo', which is no class; 'cat' is missing"),
        ("ant\nbee\n\nant\ncat", "line 4 is 'ant' again"),
        ("", "'ant' is missing; 'bee' is missing; 'cat' is missing"),
    ],
)
def test_an_order_that_is_no_permutation_is_refused(text, message, tmp_path):
    file = tmp_path / "order.txt"
    file.write_text(text)
    with pytest.raises(data.DataError, match=f"{message}.*classes are 'ant', 'bee', 'cat'"):
        counts((9, 9, 9), labeled_head=2, unlabeled_head=2, class_order=file)


def test_more_refusals(tmp_path):
    sizes = {"labeled_head": 2, "unlabeled_head": 2}
    with pytest.raises(data.DataError, match="position 1 is 'x', which is no class"):
        counts((9, 9, 9), **sizes, class_order=["ant", "x", "cat"])
    with pytest.raises(data.DataError, match=r"order\.txt' cannot be read: .*No such file"):
        counts((9, 9, 9), **sizes, class_order=tmp_path / "order.txt")
    with pytest.raises(data.DataError, match="class_order is given without labeled_head"):
        LongTail(class_order=NAMES)


def test_a_run_of_version_1_with_the_old_order_is_not_continued_silently(tmp_path):
    def rules(dataset, *more):
        settings = completed(*arguments(dataset=dataset), *more)
        file = tmp_path / "flags.cfg"
        write_flags_file(file, settings)
        file.write_text(file.read_text().replace("# Rules", "# Version"))
        return " ".join(changes_since(file, settings).rules)

    assert "the tail follows the sizes" in rules("image_folder")
    assert "the tail follows" not in rules("digits")
    assert "the tail follows" not in rules("image_folder", "--class_order=order.txt")
    assert "the tail follows" not in rules("image_folder", "--labeled_head=0")
