"""Long-tailed splits: exact counts, disjoint parts, impossible requests explained."""

import decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daso_tf.data.errors import DataError
from daso_tf.data.long_tail import LongTail, class_counts, split

NAMES = [f"class {k}" for k in range(10)]


def balanced(per_class, num_classes=10):
    """Labels in a shuffled order, the same number of each class."""
    labels = np.repeat(np.arange(num_classes), per_class)
    return np.random.default_rng(7).permutation(labels)


def carved(labels, seed=0, names=NAMES, **sizes):
    return split(labels, names, LongTail(**sizes), unlabeled_from_train=True, seed=seed)


@pytest.mark.parametrize(
    ("head", "imbalance", "num_classes"), [(500, 100, 10), (400, 20, 100), (300, 7.5, 37)]
)
def test_counts_are_those_of_exact_arithmetic(head, imbalance, num_classes):
    with decimal.localcontext(prec=50):
        ratio, tiny = decimal.Decimal(imbalance), decimal.Decimal("1e-30")
        exact = [
            int(head / ratio ** (decimal.Decimal(rank) / (num_classes - 1)) + tiny)
            for rank in range(num_classes)
        ]
    np.testing.assert_array_equal(class_counts(head, imbalance, num_classes), exact)
    np.testing.assert_array_equal(class_counts(head, imbalance, num_classes, True), exact[::-1])


def test_whole_numbers_stay_whole():
    # Rounding errors make powers such as 1000 / 1000**(2/3) differ from the whole number.
    np.testing.assert_array_equal(class_counts(1000, 1000, 4), [1000, 100, 10, 1])
    np.testing.assert_array_equal(class_counts(7**5, 7**5, 6), [16807, 2401, 343, 49, 7, 1])


@pytest.mark.parametrize("reverse", [False, True])
def test_split_has_the_counts_and_no_common_image(reverse):
    labels = balanced(500)
    parts = carved(
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
    one = carved(labels, labeled_head=20, unlabeled_head=80)
    other = carved(labels, labeled_head=20, unlabeled_head=50, unlabeled_imbalance=5)
    np.testing.assert_array_equal(one.labeled, other.labeled)
    assert set(other.unlabeled) < set(one.unlabeled)
    assert set(carved(labels, labeled_head=10, unlabeled_head=80).labeled) < set(one.labeled)


def test_seeds_choose_different_images():
    labels = balanced(100)
    one, other = (carved(labels, seed, labeled_head=20, unlabeled_head=20) for seed in (0, 1))
    assert set(one.labeled) != set(other.labeled)


def test_without_a_head_all_images_are_labeled():
    labels = np.array([0] * 7 + [1] * 3)
    parts = split(labels, ["a", "b"], LongTail(), unlabeled_from_train=False, seed=0)
    np.testing.assert_array_equal(parts.labeled, np.arange(10))
    assert len(parts.unlabeled) == len(parts.validation) == 0


def test_own_unlabeled_images_leave_validation_and_thinning():
    labels = balanced(500)
    sizes = LongTail(labeled_head=150, labeled_imbalance=10, validation_size=500)
    parts = split(labels, NAMES, sizes, unlabeled_from_train=False, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[parts.labeled]), class_counts(150, 10, 10))
    np.testing.assert_array_equal(np.bincount(labels[parts.validation]), [50] * 10)


@settings(max_examples=100, deadline=None)
@given(
    there=st.lists(st.integers(0, 30), min_size=2, max_size=6),
    heads=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    imbalances=st.tuples(st.floats(1, 50), st.floats(1, 50)),
    reverse=st.booleans(),
    per_class=st.integers(0, 4),
    unlabeled_from_train=st.booleans(),
)
def test_any_request_is_met_or_refused(
    there, heads, imbalances, reverse, per_class, unlabeled_from_train
):
    labels = np.repeat(np.arange(len(there)), there)
    names = NAMES[: len(there)]
    try:
        sizes = LongTail(
            heads[0], imbalances[0], heads[1], imbalances[1], reverse, per_class * len(there)
        )
        parts = split(labels, names, sizes, unlabeled_from_train=unlabeled_from_train, seed=0)
    except DataError:
        return
    counts = [np.bincount(labels[part], minlength=len(there)) for part in vars(parts).values()]
    assert (np.sum(counts, axis=0) <= there).all()
    together = np.concatenate(list(vars(parts).values()))
    assert len(np.unique(together)) == len(together)
    assert (counts[0] > 0).all()
    assert (counts[2] == per_class).all()
    if heads[0]:
        by_size = np.argsort(-np.array(there), kind="stable")
        expected = class_counts(heads[0], imbalances[0], len(there))
        np.testing.assert_array_equal(counts[0][by_size], expected)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"labeled_head": -1}, "labeled_head=-1; it must be 0 or more"),
        ({"labeled_head": 5, "labeled_imbalance": 0.5}, "labeled_imbalance=0.5"),
        ({"unlabeled_head": 5, "unlabeled_imbalance": float("nan")}, "unlabeled_imbalance=nan"),
        ({"labeled_imbalance": 2}, "labeled_imbalance=2 without labeled_head"),
        ({"reverse_unlabeled": True}, "reverse_unlabeled is set without unlabeled_head"),
        ({"labeled_head": 5}, "both labeled_head and unlabeled_head must be given: .* 5 and 0"),
        (
            {"labeled_head": 10, "labeled_imbalance": 11, "unlabeled_head": 5},
            "tail class without a labeled image",
        ),
        (
            {"labeled_head": 30, "unlabeled_head": 21},
            "'class 0' has 50 training images, but 51 are requested: 0 for validation, "
            "30 labeled and 21 unlabeled",
        ),
        (
            {"labeled_head": 5, "unlabeled_head": 5, "validation_size": 55},
            "validation_size=55 cannot be divided evenly among 10 classes.*Give 50 or 60",
        ),
    ],
)
def test_impossible_requests_are_explained(sizes, message):
    with pytest.raises(DataError, match=message):
        carved(balanced(50), **sizes)


def test_more_refusals():
    labels = np.array([0] * 9 + [2] * 2)
    with pytest.raises(DataError, match="'b' has no labeled image"):
        split(labels, list("abc"), LongTail(), unlabeled_from_train=False, seed=0)
    with pytest.raises(DataError, match=r"'c' has 2 training images\. Validation uses 2 of them"):
        split(
            labels // 2, list("ac"), LongTail(validation_size=4), unlabeled_from_train=False, seed=0
        )
    with pytest.raises(DataError, match="unlabeled images of unknown classes"):
        split(labels, list("abc"), LongTail(unlabeled_head=1), unlabeled_from_train=False, seed=0)
    with pytest.raises(DataError, match="Found 1 class"):
        split(labels * 0, ["a"], LongTail(), unlabeled_from_train=False, seed=0)
    with pytest.raises(DataError, match="seed=-1"):
        split(labels, list("abc"), LongTail(), unlabeled_from_train=False, seed=-1)
