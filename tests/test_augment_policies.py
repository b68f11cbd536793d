"""Weak and strong views: every draw has its distribution, and every image its own draws."""

import itertools
import zlib
from collections import Counter, defaultdict

import keras
import numpy as np
import pillow_views
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_sample_image

from daso_tf.augment import RandAugment, Weak, policies
from daso_tf.platform import cores

SEED = (3, 5)
SMALLEST_P = 1e-3  # the seeds are fixed, so a test either always passes or never


def photographs(count, size):
    corners = np.random.default_rng(1).integers([300, 500], size=[count, 2])
    photo = load_sample_image("china.jpg")
    return np.stack([photo[y : y + size, x : x + size] for y, x in corners])


def compiled(layer, jit_compile=True):
    return tf.function(lambda images, seed: layer(images, seed=seed), jit_compile=jit_compile)


def draw(layer, image, count, seed=SEED):
    return compiled(layer)(tf.constant(np.stack([image] * count)), tf.constant(seed)).numpy()


def assert_distributed(outcomes, probabilities):
    """Chi-square; outcomes with few expected are taken together."""
    assert set(outcomes) <= set(probabilities)
    assert sum(probabilities.values()) == pytest.approx(1)
    observed, total = Counter(outcomes), len(outcomes)
    common = [key for key, p in probabilities.items() if p * total >= 10]
    counts = [observed[key] for key in common]
    expected = [probabilities[key] * total for key in common]
    if len(common) < len(probabilities):
        counts.append(total - sum(counts))
        expected.append(total - sum(expected))
    assert stats.chisquare(counts, expected).pvalue > SMALLEST_P


def assert_independent(first, second):
    pairs = Counter(zip(first, second, strict=True))
    table = [[pairs[a, b] for b in sorted(set(second))] for a in sorted(set(first))]
    assert stats.chi2_contingency(table).pvalue > SMALLEST_P


def uniform(*ranges):
    outcomes = list(itertools.product(*ranges))
    return dict.fromkeys(outcomes, 1 / len(outcomes))


def test_weak_views_are_flips_and_crops_drawn_uniformly_and_independently():
    rows, columns = np.mgrid[:24, :24]
    image = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    crops = {
        pillow_views.flip_and_crop(image, *drawn).tobytes(): drawn
        for drawn in itertools.product([False, True], range(7), range(7))
    }
    drawn = [crops[view.tobytes()] for view in draw(Weak(), image, 10_000)]
    assert_distributed(drawn, uniform([False, True], range(7), range(7)))
    for i, j in itertools.product(range(3), repeat=2):
        assert_independent([d[i] for d in drawn[:-1]], [d[j] for d in drawn[1:]])


def test_weak_views_of_rectangles():
    image = photographs(1, 48)[0, :16]
    crops = [
        pillow_views.flip_and_crop(image, *drawn).tobytes()
        for drawn in itertools.product([False, True], range(5), range(13))
    ]
    assert {view.tobytes() for view in draw(Weak(), image, 100)} <= set(crops)


def test_weak_views_without_flip_or_padding():
    images = photographs(20, 16)
    np.testing.assert_array_equal(Weak(horizontal_flip=False, padding=0)(images, seed=SEED), images)
    flips = {view.tobytes() for view in draw(Weak(padding=0), images[0], 50)}
    assert flips == {images[0].tobytes(), images[0, :, ::-1].tobytes()}
    crops = draw(Weak(horizontal_flip=False, padding=0.5), images[0], 500)
    padded = np.pad(images[0], [(8, 8), (8, 8), (0, 0)], mode="reflect")
    every = {padded[y : y + 16, x : x + 16].tobytes() for y in range(17) for x in range(17)}
    assert {view.tobytes() for view in crops} <= every


def operation_outcomes(image):
    """Yields (probability, name, result) of everything that one operation can do to the image."""
    yield 1 / 2, "identity", image
    for name, level, sign in itertools.product(
        pillow_views.OPERATIONS, pillow_views.LEVELS, (-1, 1)
    ):
        magnitude = pillow_views.magnitude(name, level, sign, image.shape[1::-1])
        yield 1 / 2 / 14 / 9 / 2, name, pillow_views.apply(name, image, magnitude)


def test_one_operation_draws_its_name_level_and_sign_uniformly():
    image, probabilities, names = photographs(1, 20)[0], defaultdict(float), {}
    for probability, name, result in operation_outcomes(image):
        probabilities[result.tobytes()] += probability
        names.setdefault(result.tobytes(), name)
    outcomes = [view.tobytes() for view in draw(RandAugment(1, cutout=0), image, 20_000)]
    assert_distributed(outcomes, probabilities)
    drawn = [names[outcome] for outcome in outcomes]
    assert_independent(drawn[:-1], drawn[1:])


def test_two_operations_are_drawn_independently_and_with_replacement():
    image, probabilities = photographs(1, 12)[0], defaultdict(float)
    seconds = {}
    for probability, _, first in operation_outcomes(image):
        if first.tobytes() not in seconds:
            seconds[first.tobytes()] = list(operation_outcomes(first))
        for conditional, _, result in seconds[first.tobytes()]:
            probabilities[result.tobytes()] += probability * conditional
    views = [view.tobytes() for view in draw(RandAugment(2, cutout=0), image, 20_000)]
    assert set(views) <= set(probabilities)
    binned = defaultdict(float)
    for result, probability in probabilities.items():
        binned[zlib.crc32(result) % 200] += probability
    assert_distributed([zlib.crc32(view) % 200 for view in views], binned)


def test_cutout_is_a_gray_rectangle_around_a_uniform_point():
    views = draw(RandAugment(0), np.zeros([24, 32, 3], np.uint8), 10_000)
    drawn = [tuple(np.argwhere(view[..., 0] == 127)[0]) for view in views]
    for view, (y, x) in zip(views, drawn, strict=True):
        expected = pillow_views.cut_out(np.zeros([24, 32, 3], np.uint8), x + 8, y + 8)
        np.testing.assert_array_equal(view, expected)
    rows, columns = zip(*drawn, strict=True)
    assert_distributed(rows, {0: 9 / 24, **dict.fromkeys(range(1, 16), 1 / 24)})
    assert_distributed(columns, {0: 9 / 32, **dict.fromkeys(range(1, 24), 1 / 32)})
    for first, second in ((rows, columns), (rows[:-1], rows[1:]), (columns[:-1], columns[1:])):
        assert_independent(first, second)


def test_strong_views_have_the_statistics_of_a_pillow_pipeline():
    image, count, random = photographs(1, 32)[0], 10_000, np.random.default_rng(0)
    images = tf.constant(np.stack([image] * count))
    strong = compiled(RandAugment())(compiled(Weak())(images, SEED), SEED).numpy().astype(float)
    expected = np.stack([pillow_views.strong(image, random) for _ in range(count)]).astype(float)

    def moments(views):
        mean, deviation = views.mean(axis=0), views.std(axis=0)
        fourth = ((views - mean) ** 4).mean(axis=0)
        return mean, deviation, np.sqrt(fourth / deviation**4 - 1) * deviation / 2

    (mean_a, std_a, error_a), (mean_b, std_b, error_b) = moments(strong), moments(expected)
    # Of 3,072 normal deviates the largest is below 5 in 998 of 1,000 cases.
    assert np.abs((mean_a - mean_b) / np.sqrt((std_a**2 + std_b**2) / count)).max() < 5
    assert np.abs((std_a - std_b) / np.sqrt((error_a**2 + error_b**2) / count)).max() < 5


@pytest.fixture(scope="module")
def layers():
    return {"weak": Weak(), "strong": RandAugment()}


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_eager_graph_and_xla_agree(layers, name):
    images = photographs(40, 24)
    eager = layers[name](images, seed=SEED)
    for jit_compile in (False, True):
        other = compiled(layers[name], jit_compile)(tf.constant(images), tf.constant(SEED))
        np.testing.assert_array_equal(other, eager)


def test_the_program_for_a_gpu_makes_the_same_pixels(monkeypatch):
    # About 1,000 operations are applied: each of the 14, at all 9 levels and with both signs.
    layer, seed = RandAugment(num_ops=2, cutout=4), tf.constant(SEED)
    images = tf.constant(photographs(1000, 12)[:, :10])
    expected = compiled(layer)(images, seed).numpy()
    monkeypatch.setattr(cores, "gpus", lambda: 1)
    monkeypatch.delattr(policies, "_apply_in_chunks")  # to use it would be an error
    np.testing.assert_array_equal(layer(images, seed=seed), expected)
    assert layer(images[:0], seed=seed).shape == (0, 10, 12, 3)
    for jit_compile in (False, True):
        np.testing.assert_array_equal(compiled(layer, jit_compile)(images, seed), expected)


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_an_image_is_augmented_regardless_of_the_rest_of_the_batch(layers, name):
    images = photographs(40, 24)
    together = layers[name](images, seed=SEED).numpy()
    assert (together != images).any(axis=(1, 2, 3)).mean() > 0.5
    np.testing.assert_array_equal(layers[name](images[:7], seed=SEED), together[:7])
    others = images[::-1].copy()
    others[3] = images[3]
    np.testing.assert_array_equal(layers[name](others, seed=SEED)[3], together[3])


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_the_seed_decides(layers, name):
    images = photographs(40, 24)
    first = layers[name](images, seed=SEED).numpy()
    np.testing.assert_array_equal(layers[name](images, seed=SEED), first)
    for seed in ((3, 6), (4, 5)):
        assert (layers[name](images, seed=seed).numpy() != first).any()


def test_layers_given_one_seed_draw_apart():
    image = np.arange(32, dtype=np.uint8)[np.newaxis, :, np.newaxis].repeat(32, 0).repeat(3, 2)
    flipped = draw(Weak(padding=0), image, 2000)[:, 0, 0, 0] == 31
    column = (draw(RandAugment(0), image * 0, 2000)[:, :, :, 0] == 127).any(axis=1).argmax(axis=1)
    assert_independent(flipped.tolist(), np.clip(column // 8, 0, 1).tolist())


def test_layers_return_from_their_configuration():
    for layer in (Weak(False, 0.25, name="w"), RandAugment(3, cutout=5, name="r")):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert again.get_config() == layer.get_config()
        assert type(again) is type(layer)
    assert (again.num_ops, again.cutout, again.name) == (3, 5, "r")


def test_layers_work_in_a_data_pipeline_and_with_unknown_batch_sizes(layers):
    images = photographs(10, 16)
    views = (
        tf.data.Dataset.from_tensor_slices(images)
        .batch(4)
        .enumerate()
        .map(lambda i, batch: layers["strong"](batch, seed=tf.stack([i, 7])))
    )
    assert views.element_spec == tf.TensorSpec([None, 16, 16, 3], tf.uint8)
    for i, batch in enumerate(views):
        expected = layers["strong"](images[4 * i : 4 * i + 4], seed=(i, 7))
        np.testing.assert_array_equal(batch, expected)


def test_layers_work_in_a_model(layers):
    inputs = keras.Input([16, 16, 3], dtype="uint8")
    seed = keras.Input(batch_shape=[2], dtype="int32")
    outputs = layers["strong"](layers["weak"](inputs, seed=seed), seed=seed)
    model = keras.Model([inputs, seed], outputs)
    images = tf.constant(photographs(4, 16))
    expected = layers["strong"](layers["weak"](images, seed=SEED), seed=SEED)
    np.testing.assert_array_equal(model([images, tf.constant(SEED)]), expected)


def test_an_empty_batch_stays_empty(layers):
    for layer in layers.values():
        assert layer(np.zeros([0, 8, 8, 3], np.uint8), seed=SEED).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("name", ["weak", "strong"])
@pytest.mark.parametrize(
    ("images", "seed", "error", "message"),
    [
        (np.zeros([8, 8, 3], np.uint8), SEED, ValueError, r"not \(8, 8, 3\)"),
        (np.zeros([2, 8, 8, 1], np.uint8), SEED, ValueError, r"not \(2, 8, 8, 1\)"),
        (np.zeros([2, 8, 8, 3], np.float32), SEED, TypeError, "not float32"),
        (np.zeros([2, 8, 8, 3], np.uint8), 3, ValueError, r"not int32 of shape \(\)"),
        (np.zeros([2, 8, 8, 3], np.uint8), (1, 2, 3), ValueError, r"of shape \(3,\)"),
        (np.zeros([2, 8, 8, 3], np.uint8), (1.0, 2.0), ValueError, "not float32"),
    ],
)
def test_bad_input_is_refused(layers, name, images, seed, error, message):
    with pytest.raises(error, match=message):
        layers[name](images, seed=seed)


@pytest.mark.parametrize(
    ("layer", "arguments", "message"),
    [
        (Weak, {"padding": 1.0}, r"padding must be in \[0, 1\), not 1.0"),
        (Weak, {"padding": -0.1}, r"padding must be in \[0, 1\), not -0.1"),
        (RandAugment, {"num_ops": -1}, "num_ops must be at least 0, not -1"),
        (RandAugment, {"num_ops": 1.5}, "num_ops must be a whole number of at least 0, not 1.5"),
        (RandAugment, {"cutout": -2}, "cutout must be at least 0, not -2"),
    ],
)
def test_bad_arguments_are_refused(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(**arguments)
