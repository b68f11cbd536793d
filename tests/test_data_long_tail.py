"""Long-tailed splits: the paper's counts, disjoint parts, the same on every machine."""

import decimal
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daso_tf.data.errors import DataError
from daso_tf.data.long_tail import LongTail, class_counts, split

NAMES = [f"class {k}" for k in range(10)]

# (head, imbalance, classes) -> (images in all, images of the tail class), every setting of the
# paper's tables: CIFAR-10 labeled and unlabeled, CIFAR-100, STL-10.
PAPER = {
    (500, 100, 10): (1236, 5),
    (4000, 100, 10): (9922, 40),
    (500, 150, 10): (1162, 3),
    (4000, 150, 10): (9329, 26),
    (1500, 100, 10): (3720, 15),
    (3000, 100, 10): (7443, 30),
    (1500, 150, 10): (3496, 10),
    (3000, 150, 10): (6996, 20),
    (4000, 1, 10): (40000, 4000),
    (3000, 1, 10): (30000, 3000),
    (50, 10, 100): (1911, 5),
    (400, 10, 100): (15651, 40),
    (50, 20, 100): (1545, 2),
    (400, 20, 100): (12719, 20),
    (150, 10, 100): (5835, 15),
    (300, 10, 100): (11720, 30),
    (150, 20, 100): (4741, 7),
    (300, 20, 100): (9527, 15),
    (150, 10, 10): (609, 15),
    (450, 10, 10): (1835, 45),
    (150, 20, 10): (507, 7),
    (450, 20, 10): (1528, 22),
}


def balanced(per_class, num_classes=10):
    """Labels in a shuffled order, equally many of each class."""
    labels = np.repeat(np.arange(num_classes), per_class)
    return np.random.default_rng(7).permutation(labels)


def carve(labels, seed=0, names=NAMES, **sizes):
    return split(labels, names, LongTail(**sizes), carve_unlabeled=True, seed=seed)


@pytest.mark.parametrize("setting", PAPER)
def test_counts_of_the_paper(setting):
    head, imbalance, num_classes = setting
    counts = class_counts(head, imbalance, num_classes)
    total, tail = PAPER[setting]
    assert (counts[0], counts.sum(), counts[-1]) == (head, total, tail)
    with decimal.localcontext(prec=50):
        ratio = decimal.Decimal(imbalance)
        exact = [
            int(
                head / ratio ** (decimal.Decimal(rank) / (num_classes - 1))
                + decimal.Decimal("1e-30")
            )
            for rank in range(num_classes)
        ]
    np.testing.assert_array_equal(counts, exact)


def test_cifar10_lt_class_by_class():
    expected = [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]
    np.testing.assert_array_equal(class_counts(500, 100, 10), expected)
    np.testing.assert_array_equal(class_counts(500, 100, 10, reverse=True), expected[::-1])


def test_whole_numbers_stay_whole():
    # 1000 / 1000**(2/3) and the like are whole numbers that powers miss by a rounding error.
    np.testing.assert_array_equal(class_counts(1000, 1000, 4), [1000, 100, 10, 1])
    np.testing.assert_array_equal(class_counts(7**5, 7**5, 6), [16807, 2401, 343, 49, 7, 1])


@pytest.mark.parametrize("reverse", [False, True])
def test_split_has_the_counts_and_no_common_image(reverse):
    labels = balanced(500)
    parts = carve(
        labels,
        labeled_head=50,
        labeled_imbalance=10,
        unlabeled_head=400,
        unlabeled_imbalance=20,
        reverse_unlabeled=reverse,
        validation_size=500,
    )
    np.testing.assert_array_equal(np.bincount(labels[parts.labeled]), class_counts(50, 10, 10))
    np.testing.assert_array_equal(
        np.bincount(labels[parts.unlabeled]), class_counts(400, 20, 10, reverse)
    )
    np.testing.assert_array_equal(np.bincount(labels[parts.validation]), [50] * 10)
    together = np.concatenate([parts.labeled, parts.unlabeled, parts.validation])
    assert len(np.unique(together)) == len(together)


def test_labeled_images_do_not_depend_on_the_unlabeled_side():
    labels = balanced(100)
    one = carve(labels, labeled_head=20, unlabeled_head=80)
    other = carve(labels, labeled_head=20, unlabeled_head=50, unlabeled_imbalance=5)
    np.testing.assert_array_equal(one.labeled, other.labeled)
    assert set(other.unlabeled) < set(one.unlabeled)
    assert set(carve(labels, labeled_head=10, unlabeled_head=80).labeled) < set(one.labeled)


def test_seeds_choose_different_images():
    labels = balanced(100)
    one, other = (carve(labels, seed, labeled_head=20, unlabeled_head=20) for seed in (0, 1))
    assert set(one.labeled) != set(other.labeled)


def digest_of_a_split():
    labels = np.arange(2000) * 7919 % 2003 % 10
    parts = carve(
        labels,
        seed=5,
        labeled_head=50,
        labeled_imbalance=10,
        unlabeled_head=90,
        unlabeled_imbalance=20,
        reverse_unlabeled=True,
        validation_size=100,
    )
    joined = np.concatenate([parts.labeled, [-1], parts.unlabeled, [-1], parts.validation])
    return hashlib.sha256(joined.astype("<i8").tobytes()).hexdigest()


def test_the_same_split_in_every_process_and_on_every_machine():
    expected = "40c4ff4d122dc82ca137ca503f3763f113250a4e8897b2c870e2932e6cec66aa"
    assert digest_of_a_split() == expected
    program = "import test_data_long_tail as test; print(test.digest_of_a_split())"
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.split()[-1] == expected


def test_without_a_head_all_images_are_labeled():
    labels = np.array([0] * 7 + [1] * 3)
    parts = split(labels, ["a", "b"], LongTail(), carve_unlabeled=False, seed=0)
    np.testing.assert_array_equal(parts.labeled, np.arange(10))
    assert len(parts.unlabeled) == len(parts.validation) == 0


def test_own_unlabeled_images_leave_validation_and_thinning():
    labels = balanced(500)
    sizes = LongTail(labeled_head=150, labeled_imbalance=10, validation_size=500)
    parts = split(labels, NAMES, sizes, carve_unlabeled=False, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[parts.labeled]), class_counts(150, 10, 10))
    np.testing.assert_array_equal(np.bincount(labels[parts.validation]), [50] * 10)


@settings(max_examples=100, deadline=None)
@given(
    there=st.lists(st.integers(0, 30), min_size=2, max_size=6),
    heads=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    imbalances=st.tuples(st.floats(1, 50), st.floats(1, 50)),
    reverse=st.booleans(),
    per_class=st.integers(0, 4),
    carve_unlabeled=st.booleans(),
)
def test_any_request_is_met_or_refused(
    there, heads, imbalances, reverse, per_class, carve_unlabeled
):
    labels = np.repeat(np.arange(len(there)), there)
    names = NAMES[: len(there)]
    try:
        sizes = LongTail(
            heads[0], imbalances[0], heads[1], imbalances[1], reverse, per_class * len(there)
        )
        parts = split(labels, names, sizes, carve_unlabeled=carve_unlabeled, seed=0)
    except DataError:
        return
    counts = [np.bincount(labels[part], minlength=len(there)) for part in vars(parts).values()]
    assert (np.sum(counts, axis=0) <= there).all()
    together = np.concatenate(list(vars(parts).values()))
    assert len(np.unique(together)) == len(together)
    assert (counts[0] > 0).all()
    assert (counts[2] == per_class).all()
    if heads[0]:
        np.testing.assert_array_equal(counts[0], class_counts(heads[0], imbalances[0], len(there)))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"labeled_head": -1}, "labeled_head=-1; it must be 0 or more"),
        ({"labeled_head": 5, "labeled_imbalance": 0.5}, "labeled_imbalance=0.5"),
        ({"unlabeled_head": 5, "unlabeled_imbalance": float("nan")}, "unlabeled_imbalance=nan"),
        ({"labeled_imbalance": 2}, "labeled_imbalance=2 without labeled_head"),
        ({"reverse_unlabeled": True}, "reverse_unlabeled is set without unlabeled_head"),
        ({"labeled_head": 5}, "both labeled_head and unlabeled_head must say .* 5 and 0"),
        (
            {"labeled_head": 10, "labeled_imbalance": 11, "unlabeled_head": 5},
            "tail class without a labeled image",
        ),
        (
            {"labeled_head": 30, "unlabeled_head": 21},
            "'class 0' has 50 training images, but 51 are asked of it: 0 for validation, "
            "30 labeled and 21 unlabeled",
        ),
        (
            {"labeled_head": 5, "unlabeled_head": 5, "validation_size": 55},
            "validation_size=55 does not divide into 10 classes.*give 50 or 60",
        ),
    ],
)
def test_impossible_requests_are_explained(sizes, message):
    with pytest.raises(DataError, match=message):
        carve(balanced(50), **sizes)


def test_more_refusals():
    labels = np.array([0] * 9 + [2] * 2)
    with pytest.raises(DataError, match="'b' has no labeled image"):
        split(labels, list("abc"), LongTail(), carve_unlabeled=False, seed=0)
    with pytest.raises(DataError, match="'c' has 2 training images, and validation takes 2"):
        split(labels // 2, list("ac"), LongTail(validation_size=4), carve_unlabeled=False, seed=0)
    with pytest.raises(DataError, match="unlabeled images of unknown classes"):
        split(labels, list("abc"), LongTail(unlabeled_head=1), carve_unlabeled=False, seed=0)
    with pytest.raises(DataError, match="Found 1 class"):
        split(labels * 0, ["a"], LongTail(), carve_unlabeled=False, seed=0)
    with pytest.raises(DataError, match="seed=-1"):
        split(labels, list("abc"), LongTail(), carve_unlabeled=False, seed=-1)
