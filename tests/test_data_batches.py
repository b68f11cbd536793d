"""Data from arrays, and batches of images in memory."""

import sys
import weakref

import numpy as np
import pytest
import tensorflow as tf

from daso_tf import data
from daso_tf.data import batches, memory


def numbered(count, size=(4, 6)):
    """Images that encode their number in red and green."""
    images = np.zeros((count, *size, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None] % 256
    images[..., 1] = np.arange(count)[:, None, None] // 256
    return images


def numbers(images):
    corner = np.asarray(images)[:, 0, 0].astype(int)
    return corner[:, 0] + 256 * corner[:, 1]


@pytest.fixture
def loaded():
    """10 labeled images of 3 classes, 27 unlabeled ones."""
    return data.from_arrays(
        numbered(10), np.arange(10) % 3, numbered(27), unlabeled_labels=np.arange(27) % 3
    )


def take(loaded, count, **options):
    options = {"batch_size": 4, "unlabeled_ratio": 2, "seed": 3, "steps": count} | options
    return list(data.training_batches(loaded, **options).as_numpy_iterator())


def test_labels_alone_if_all_unlabeled_classes_are_unknown(loaded):
    unknown = data.from_arrays(numbered(10), np.arange(10) % 3, numbered(27))
    for (images, labels), (_, (expected, _)) in zip(take(unknown, 3), take(loaded, 3), strict=True):
        assert images[1].shape == (8, 4, 6, 3)
        np.testing.assert_array_equal(labels, expected)


def stream(batches, side):
    return np.concatenate([numbers(images[side]) for images, _ in batches])


def test_every_image_comes_once_per_pass(loaded):
    batches = take(loaded, 27)
    for side, count in ((0, 10), (1, 27)):
        order = stream(batches, side)
        passes = order[: len(order) // count * count].reshape(-1, count)
        assert len(passes) > 5
        np.testing.assert_array_equal(np.sort(passes), [range(count)] * len(passes))
        assert len(np.unique(passes, axis=0)) == len(passes)


def test_labels_belong_to_their_images(loaded):
    for (labeled, unlabeled), (labels, unlabeled_labels) in take(loaded, 10):
        np.testing.assert_array_equal(numbers(labeled) % 3, labels)
        np.testing.assert_array_equal(numbers(unlabeled) % 3, unlabeled_labels)


def test_a_resumed_run_gets_the_batches_of_an_uninterrupted_one(loaded):
    whole = take(loaded, 20)
    resumed = take(loaded, 7, steps=7) + take(loaded, 13, first_step=7)
    tf.nest.map_structure(np.testing.assert_array_equal, whole, resumed)


def test_seeds_and_streams_have_different_orders(loaded):
    one, same, other = (stream(take(loaded, 10, seed=seed), 0) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    twin = data.from_arrays(numbered(10), np.arange(10) % 3, numbered(10))
    batches = take(twin, 10, batch_size=2, unlabeled_ratio=1)
    assert (stream(batches, 0) != stream(batches, 1)).any()


def test_random_draws_never_change():
    """Runs continue and results repeat with later versions only if these stay the same."""
    labels = np.arange(13) % 3
    held = data.from_arrays(numbered(13), labels, numbered(27))
    options = {"batch_size": 4, "seed": 7, "first_step": 5, "with_positions": True}
    plain, balanced = (
        [
            (numbers(images[0]).tolist(), images[2].tolist())
            for images, _ in take(held, 3, class_balanced=class_balanced, **options)
        ]
        for class_balanced in (False, True)
    )
    assert [labeled for labeled, _ in plain] == [[12, 3, 10, 4], [8, 11, 7, 4], [2, 0, 11, 5]]
    assert [labeled for labeled, _ in balanced] == [[4, 8, 3, 2], [0, 4, 8, 8], [11, 5, 1, 11]]
    unlabeled = [
        [3, 12, 6, 25, 20, 2, 17, 11],
        [14, 26, 15, 4, 16, 10, 10, 13],
        [1, 22, 16, 11, 17, 23, 8, 24],
    ]
    assert [positions for _, positions in plain] == unlabeled
    assert [positions for _, positions in balanced] == unlabeled


def test_class_balanced_batches_draw_every_class_with_the_same_probability():
    rare_last = data.from_arrays(numbered(100), np.repeat([2, 0, 1], [70, 25, 5]), numbered(8))
    batches = take(rare_last, 500, batch_size=8, unlabeled_ratio=1, class_balanced=True)
    drawn = stream(batches, 0)
    of_class = np.repeat([2, 0, 1], [70, 25, 5])[drawn]
    np.testing.assert_array_equal(of_class, np.concatenate([labels for _, labels in batches]))
    np.testing.assert_allclose(np.bincount(of_class) / 4000, 1 / 3, atol=0.03)
    for k, count in enumerate((25, 5, 70)):  # within a class, all images with the same probability
        times = np.bincount(drawn[of_class == k], minlength=100)
        expected = np.sum(of_class == k) / count
        assert np.sum(times > 0) == count
        assert np.abs(times[times > 0] - expected).max() < 5 * np.sqrt(expected)
    assert (
        stream(batches, 1) == stream(take(rare_last, 500, batch_size=8, unlabeled_ratio=1), 1)
    ).all()


def test_class_balanced_batches_resume(loaded):
    whole = take(loaded, 20, class_balanced=True)
    resumed = take(loaded, 13, first_step=7, class_balanced=True)
    tf.nest.map_structure(np.testing.assert_array_equal, whole[7:], resumed)
    assert (stream(whole, 0) != stream(take(loaded, 20, class_balanced=True, seed=4), 0)).any()


def test_positions_are_those_of_the_unlabeled_images(loaded):
    """The images encode their numbers; everything else is the same as without positions."""
    with_positions = take(loaded, 10, with_positions=True, first_step=3)
    for (batch, labels), (images, same) in zip(
        with_positions, take(loaded, 10, first_step=3), strict=True
    ):
        np.testing.assert_array_equal(batch[2], numbers(batch[1]))
        assert batch[2].dtype == np.int64 and batch[2].shape == (8,)
        tf.nest.map_structure(np.testing.assert_array_equal, (batch[:2], labels), (images, same))


def test_shapes_types_and_length(loaded):
    one_pass = data.training_batches(loaded, batch_size=4, unlabeled_ratio=2, seed=0)
    assert one_pass.element_spec == (
        (tf.TensorSpec((4, 4, 6, 3), tf.uint8), tf.TensorSpec((8, 4, 6, 3), tf.uint8)),
        (tf.TensorSpec(4, tf.int32), tf.TensorSpec(8, tf.int32)),
    )
    assert len(one_pass) == 4  # of 8 unlabeled images each; there are 27
    assert len(take(loaded, 5)) == 5


def test_each_iteration_continues_where_the_one_before_it_ended(loaded):
    options = {"batch_size": 4, "unlabeled_ratio": 2, "seed": 3}
    batches = data.training_batches(loaded, first_step=2, **options)
    two_passes = [*batches.as_numpy_iterator(), *batches.as_numpy_iterator()]
    endless = data.training_batches(loaded, first_step=2, **options).repeat()
    whole = take(loaded, 8, first_step=2)
    for found in (two_passes, list(endless.take(8).as_numpy_iterator())):
        tf.nest.map_structure(np.testing.assert_array_equal, found, whole)


def test_a_batch_may_contain_all_images_but_not_more(loaded):
    ((labeled, _), _), *_ = take(loaded, 1, batch_size=10)
    np.testing.assert_array_equal(np.sort(numbers(labeled)), range(10))
    with pytest.raises(data.DataError, match=r"batch_size requests 11 labeled .* there are 10"):
        take(loaded, 1, batch_size=11)
    with pytest.raises(data.DataError, match=r"batch_size \* unlabeled_ratio requests 28 unlab"):
        take(loaded, 1, unlabeled_ratio=7)
    with pytest.raises(data.DataError, match="batch_size requests 0 labeled"):
        take(loaded, 1, batch_size=0)


def test_evaluation_batches_contain_every_image_in_order(loaded):
    batches = data.evaluation_batches(loaded.unlabeled, 10)
    assert len(batches) == 3
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    assert [len(part) for part in labels] == [10, 10, 7]
    np.testing.assert_array_equal(np.concatenate(images), loaded.unlabeled.images)
    np.testing.assert_array_equal(np.concatenate(labels), loaded.unlabeled.labels)
    with pytest.raises(data.DataError, match="batch_size=0"):
        data.evaluation_batches(loaded.unlabeled, 0)


def read_only(images):
    images.flags.writeable = False
    return images


@pytest.mark.parametrize(
    "held",
    [
        lambda images: images,
        lambda images: np.asfortranarray(images),
        lambda images: np.repeat(images, 2, axis=0)[::2],
        read_only,
        lambda images: np.frombuffer(b"x" + images.tobytes(), np.uint8, offset=1).reshape(
            images.shape
        ),
    ],
    ids=["plain", "columns first", "strided", "read-only", "odd address"],
)
def test_the_memory_layout_of_arrays_does_not_matter(held):
    images = held(numbered(27))
    loaded = data.from_arrays(images, np.arange(27) % 3, images)
    for (labeled, unlabeled), _ in take(loaded, 3):
        np.testing.assert_array_equal(labeled, images[numbers(labeled)])
        np.testing.assert_array_equal(unlabeled, images[numbers(unlabeled)])
    evaluated, _ = next(data.evaluation_batches(loaded.labeled, 27).as_numpy_iterator())
    np.testing.assert_array_equal(evaluated, images)


def test_aligned_images_are_not_copied():
    images = memory.empty_images(5, (4, 6))
    images[:] = numbered(5)
    tensor = memory.as_tensor(images)
    np.testing.assert_array_equal(tensor, numbered(5))
    images[3] = 99
    assert (tensor[3].numpy() == 99).all()


def test_from_arrays_keeps_its_arguments():
    loaded = data.from_arrays(
        numbered(5),
        np.array([0, 1, 1, 2, 1], np.int64),
        numbered(8),
        validation=(numbered(2), [0, 2]),
        test=(numbered(3), [2, 2, 1]),
        class_names=["a", "b", "c"],
    )
    assert (loaded.num_classes, loaded.class_names) == (3, ("a", "b", "c"))
    np.testing.assert_array_equal(loaded.labeled_counts, [1, 3, 1])
    assert loaded.unlabeled_counts is None
    assert loaded.labeled.labels.dtype == loaded.validation.labels.dtype == np.int32
    np.testing.assert_array_equal(loaded.test.labels, [2, 2, 1])
    pixels = np.concatenate([numbered(5), numbered(8)]) / 255
    np.testing.assert_allclose(loaded.mean, pixels.mean((0, 1, 2)), atol=1e-12)


def test_from_arrays_names_classes_by_number_and_counts_known_unlabeled_ones(loaded):
    assert loaded.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(loaded.unlabeled_counts, [9, 9, 9])
    assert loaded.validation is None
    assert loaded.test is None


def test_repr_is_a_short_summary(loaded):
    assert repr(loaded) == (
        "SemiSupervisedData(10 labeled, 27 unlabeled images of size (4, 6), 3 classes)"
    )
    assert repr(loaded.labeled) == "Images(10 images of size (4, 6), 3 classes)"
    some_unknown = data.Images(numbered(3), [0, -1, -1])
    assert repr(some_unknown) == "Images(3 images of size (4, 6), 1 class, 2 of unknown class)"
    assert (
        repr(data.Images(numbered(1), [-1])) == "Images(1 image of size (4, 6), 1 of unknown class)"
    )
    files = data.ImageFiles(["a.png", "b.png"], [0, 1], (8, 9))
    assert repr(files) == "ImageFiles(2 images of size (8, 9), 2 classes)"
    everything = data.from_arrays(
        numbered(4),
        [0, 1, 0, 1],
        numbered(5),
        validation=(IMAGES, LABELS % 2),
        test=(IMAGES, LABELS % 2),
    )
    assert repr(everything) == (
        "SemiSupervisedData(4 labeled, 5 unlabeled, 4 validation, 4 test images of size (4, 6), "
        "2 classes)"
    )


def test_channel_statistics_of_arrays_of_different_sizes():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in ((3, 4, 5, 3), (1100, 2, 2, 3))]
    pixels = np.concatenate([array.reshape(-1, 3) for array in arrays]) / 255
    mean, std = data.channel_statistics(*arrays)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-9)
    _, constant = data.channel_statistics(np.zeros((1, 2, 2, 3), np.uint8))
    assert constant == (1 / 255,) * 3
    with pytest.raises(data.DataError, match=r"got float64 of shape .* must be uint8 RGB"):
        data.channel_statistics(arrays[0] / 255)
    with pytest.raises(data.DataError, match=r"got uint8 of shape \(4, 5, 3\)"):
        data.channel_statistics(arrays[0][0])
    for nothing in ([], [arrays[0][:0]]):
        with pytest.raises(data.DataError, match="give at least one image"):
            data.channel_statistics(*nothing)


def test_image_files_must_be_readable_by_default():
    files = data.ImageFiles(["no such file.png"], [0], (8, 8))
    with pytest.raises(data.DataError, match=r"all of these images must be readable.*\n.*no such"):
        files.take([0])


IMAGES, LABELS = numbered(4), np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (IMAGES / 255, LABELS, IMAGES),
            {},
            r"float64 of shape \(4, 4, 6, 3\); they must be uint8",
        ),
        ((IMAGES[..., 0], LABELS, IMAGES), {}, r"of shape \(4, 4, 6\)"),
        ((IMAGES, LABELS[:3], IMAGES), {}, r"Labels are int64 of shape \(3,\) for 4 images"),
        ((IMAGES, LABELS / 1, IMAGES), {}, "Labels are float64"),
        ((IMAGES, LABELS, None), {}, r"unlabeled_images is None.*Supervised.*\[:0\]"),
        ((IMAGES, LABELS, IMAGES[:, :3]), {}, r"unlabeled images have size \(3, 6\)"),
        ((IMAGES, LABELS - 1, IMAGES), {}, r"Label -1 of labeled image 0 \(1 such\).*0\.\.1"),
        ((IMAGES, LABELS, IMAGES), {"class_names": ["a", "b"]}, r"Label 2 of labeled image 2"),
        ((IMAGES, LABELS, IMAGES), {"test": (IMAGES, LABELS + 1)}, r"Label 3 of test image 2"),
        ((IMAGES, LABELS, IMAGES), {"unlabeled_labels": LABELS - 2}, r"Label -2 .*-1\.\.2"),
        ((IMAGES, LABELS * 2, IMAGES), {}, "2 of 5 classes have no labeled image: '1', '3'"),
        ((IMAGES, LABELS * 0, IMAGES), {}, "Found 1 class"),
    ],
)
def test_wrong_arrays_are_explained(arguments, options, message):
    with pytest.raises(data.DataError, match=message):
        data.from_arrays(*arguments, **options)


def test_an_uncaught_exception_does_not_hold_iterators_when_python_ends():
    class Held:
        pass

    def fails():
        held = Held()
        held.itself = held  # in a cycle, as iterators and their functions are
        alive.append(weakref.ref(held))
        raise RuntimeError("uncaught")

    alive = []
    try:
        fails()
    except RuntimeError as error:  # what Python does with an exception that nobody catches
        sys.last_value, sys.last_traceback = error, error.__traceback__
    assert alive[0]() is not None
    batches.free_iterators()
    assert alive[0]() is None
