"""CReST's selection of pseudo-labeled images against its plain statement."""

import numpy as np
import pytest

from daso_tf.run.generations import alignment_temperature, select


def stated(probabilities, counts, alpha):
    """The paper's rule, class by class, for counts in descending order."""
    chosen = set()
    for k in range(len(counts)):
        rate = (counts[len(counts) - 1 - k] / counts[0]) ** (1 / alpha)
        members = [i for i, row in enumerate(probabilities) if np.argmax(row) == k]
        members.sort(key=lambda i: -probabilities[i, k])
        chosen |= {(i, k) for i in members[: int(rate * len(members) + 1e-9)]}
    return chosen


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).dirichlet([2.0, 1.0, 1.0, 0.5], size=400)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_selection_is_that_of_the_paper(probabilities, alpha):
    counts = [64, 27, 8, 1]
    positions, classes = select(probabilities, counts, alpha)
    assert set(zip(positions, classes, strict=True)) == stated(probabilities, counts, alpha)
    assert (np.diff(positions) > 0).all()


def test_all_images_of_the_rarest_class_are_selected(probabilities):
    counts = [64, 27, 8, 1]
    _, classes = select(probabilities, counts, alpha=3)
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=4)
    taken = np.bincount(classes, minlength=4)
    np.testing.assert_array_equal(taken, (predicted * [1 / 4, 2 / 4, 3 / 4, 1]).astype(int))


def test_the_order_of_the_classes_does_not_matter(probabilities):
    counts, order = np.array([64, 27, 8, 1]), np.array([2, 0, 3, 1])
    positions, classes = select(probabilities, counts)
    shuffled, shuffled_classes = select(probabilities[:, order], counts[order])
    np.testing.assert_array_equal(shuffled, positions)
    np.testing.assert_array_equal(order[shuffled_classes], classes)


def test_a_class_that_is_never_predicted_is_not_selected():
    positions, classes = select(np.array([[0.9, 0.1, 0.0]] * 4), [4, 2, 1])
    assert set(classes) <= {0}
    assert len(positions) == int(4 * (1 / 4) ** (1 / 3))


def test_temperatures_decrease_linearly():
    assert [alignment_temperature(g, 3, 0.2) for g in range(3)] == [1.0, 0.6, 0.2]
    assert alignment_temperature(0, 1) == 1.0


@pytest.mark.parametrize(
    ("shape", "counts", "alpha", "message"),
    [
        ((3, 2), [4, 1], 0.0, "alpha must be above 0, not 0.0"),
        ((3, 2), [4, 1, 1], 3.0, r"shape \(3, 2\)"),
        ((3, 2), [4, 0], 3.0, "at least one image per class"),
    ],
)
def test_arguments_outside_their_range_are_refused(shape, counts, alpha, message):
    with pytest.raises(ValueError, match=message):
        select(np.full(shape, 0.5), counts, alpha)
