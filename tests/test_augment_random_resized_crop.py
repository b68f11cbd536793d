"""Random resized crops: the parts are drawn as torchvision draws them, the pixels are Pillow's."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_image

import daso_tf
from daso_tf.augment import RandomResizedCrop, Weak

SEED = (3, 5)
SMALLEST_P = 1e-3  # the seeds are fixed, so a test either always passes or never


def photographs(count, height, width):
    corners = np.random.default_rng(1).integers([200, 300], size=[count, 2])
    photo = load_sample_image("china.jpg")
    return np.stack([photo[y : y + height, x : x + width] for y, x in corners])


def pillow_view(image, box, flipped, size):
    box = tuple(int(side) for side in box)
    view = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(view)[:, ::-1] if flipped else np.asarray(view)


def drawn(layer, count, height, width, seed=SEED):
    boxes, flipped = layer.boxes(count, height, width, seed)
    left, upper, right, lower = boxes.numpy().T
    return left, upper, right - left, lower - upper, flipped.numpy()


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize(
    ("height", "width", "size", "scale"),
    [
        (64, 64, 56, (0.08, 1.0)),
        (45, 80, 32, (0.5, 1.0)),  # most are reduced
        (20, 17, 33, (0.08, 1.0)),  # all are enlarged
        (3, 120, 5, (0.08, 1.0)),  # none fits
    ],
)
def test_views_are_pillows(height, width, size, scale, jit_compile):
    layer, images = RandomResizedCrop(size, scale), photographs(32, height, width)
    images[::2] = np.random.default_rng(0).integers(256, size=images[::2].shape)
    boxes, flipped = layer.boxes(32, height, width, SEED)
    assert {True, False} <= set(flipped.numpy())

    def views(images):
        return layer(images, seed=SEED)

    if jit_compile is not None:
        views = tf.function(views, jit_compile=jit_compile)
    views = views(tf.constant(images))
    assert views.dtype == tf.uint8
    for image, box, flip, view in zip(images, boxes.numpy(), flipped.numpy(), views, strict=True):
        np.testing.assert_array_equal(view, pillow_view(image, box, flip, size))


def test_the_whole_image_at_its_own_size_stays():
    layer = RandomResizedCrop(24, scale=(1, 1), ratio=(1, 1), horizontal_flip=False)
    images = photographs(4, 24, 24)
    np.testing.assert_array_equal(layer(images, seed=SEED), images)


def test_parts_are_drawn_uniformly():
    """On a large image, which every part fits into and where whole pixels do not show."""
    side, low, high, ratio = 100_000, 0.1, 0.4, (1 / 2, 2)
    left, upper, width, height, flipped = drawn(
        RandomResizedCrop(8, (low, high), ratio), 5000, side, side
    )
    uniform = {
        "area": (width / side * height / side - low) / (high - low),
        "ratio": np.log(width / height) / math.log(4) + 0.5,
        "left": left / (side - width),
        "upper": upper / (side - height),
    }
    for values in uniform.values():
        assert stats.kstest(values, "uniform").pvalue > SMALLEST_P
    assert stats.binomtest(int(flipped.sum()), 5000).pvalue > SMALLEST_P
    draws = np.stack([*uniform.values(), flipped])
    draws = np.concatenate([draws[:, 1:], draws[:, :-1]])  # an image's, then its neighbor's
    correlations = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(5000)


def torchvision_part(height, width, scale, ratio, random):
    """The rule of `RandomResizedCrop.get_params`: left, upper, width, height."""
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.integers(width - w + 1), random.integers(height - h + 1), w, h
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (256, 256, (0.08, 1.0), (3 / 4, 4 / 3)),
        (60, 200, (0.3, 1.0), (3 / 4, 4 / 3)),  # a third fit, the others are central
        (100, 40, (0.08, 1.0), (1 / 4, 2)),
    ],
)
def test_parts_are_distributed_as_torchvisions(height, width, scale, ratio):
    ours = drawn(RandomResizedCrop(8, scale, ratio), 5000, height, width)[:4]
    random = np.random.default_rng(2)
    theirs = [torchvision_part(height, width, scale, ratio, random) for _ in range(5000)]

    def features(left, upper, w, h):
        return [left, upper, w, h, w * h, w / h, left + w, upper + h, left * h]

    for a, b in zip(features(*ours), features(*np.transpose(theirs)), strict=True):
        assert stats.ks_2samp(a, b).pvalue > SMALLEST_P


def test_ten_parts_are_tried():
    height, width, random = 60, 200, np.random.default_rng(3)
    area = height * width * random.uniform(0.3, 1.0, 1_000_000)
    aspect = np.exp(random.uniform(math.log(3 / 4), math.log(4 / 3), 1_000_000))
    fits = (np.sqrt(area * aspect).round() <= width) & (np.sqrt(area / aspect).round() <= height)
    _, _, w, h, _ = drawn(RandomResizedCrop(8, (0.3, 1.0)), 20_000, height, width)
    central = (w == 80) & (h == 60)
    assert 0.3 < central.mean() < 0.9
    none_fits = (1 - fits.mean()) ** 10
    assert stats.binomtest(int(central.sum()), 20_000, none_fits).pvalue > SMALLEST_P


@pytest.mark.parametrize(("height", "width"), [(7, 9), (50, 31), (256, 256), (1, 1), (5, 1000)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.6), (1.0, 1.0)])
def test_parts_lie_inside_and_have_the_area_and_ratio(height, width, scale):
    left, upper, w, h, _ = drawn(RandomResizedCrop(8, scale), 500, height, width)
    assert (left >= 0).all()
    assert (upper >= 0).all()
    assert (left + w <= width).all()
    assert (upper + h <= height).all()
    central = torchvision_part(height, width, (1e9, 1e9), (3 / 4, 4 / 3), np.random.default_rng(0))
    tried = ~np.all(np.transpose([left, upper, w, h]) == central, axis=1)
    w, h = w[tried], h[tried]  # each at most half a pixel from what was drawn
    assert ((w + 0.5) * (h + 0.5) >= scale[0] * height * width).all()
    assert ((w - 0.5) * (h - 0.5) <= scale[1] * height * width).all()
    assert ((w + 0.5) / (h - 0.5) >= 3 / 4).all()
    assert ((w - 0.5) / (h + 0.5) <= 4 / 3).all()


@pytest.mark.parametrize(
    ("height", "width", "ratio", "box"),
    [
        (10, 1000, (3 / 4, 4 / 3), (493, 0, 506, 10)),
        (1000, 10, (3 / 4, 4 / 3), (0, 493, 10, 506)),
        (30, 30, (4 / 5, 5 / 6), (2, 0, 27, 30)),
        (1, 1, (4, 4), (0, 0, 1, 1)),
    ],
)
def test_where_no_part_fits_the_largest_central_one_is_taken(height, width, ratio, box):
    boxes, _ = RandomResizedCrop(8, (1.0, 1.0), ratio).boxes(50, height, width, SEED)
    np.testing.assert_array_equal(boxes, [box] * 50)


def test_nothing_is_flipped_where_it_is_not_asked_for():
    flipping, still = RandomResizedCrop(8), RandomResizedCrop(8, horizontal_flip=False)
    (boxes, flipped), (same_boxes, none) = (x.boxes(100, 20, 30, SEED) for x in (flipping, still))
    np.testing.assert_array_equal(boxes, same_boxes)
    assert flipped.numpy().any()
    assert not none.numpy().any()


def test_an_image_is_augmented_regardless_of_the_rest_of_the_batch():
    layer, images = RandomResizedCrop(16), photographs(40, 24, 20)
    together = layer(images, seed=SEED).numpy()
    np.testing.assert_array_equal(layer(images[:7], seed=SEED), together[:7])
    others = images[::-1].copy()
    others[3] = images[3]
    np.testing.assert_array_equal(layer(others, seed=SEED)[3], together[3])
    np.testing.assert_array_equal(layer(images, seed=SEED), together)
    for seed in ((3, 6), (4, 5)):
        assert (layer(images, seed=seed).numpy() != together).any()


def test_layers_given_one_seed_draw_apart():
    ramp = np.arange(16, dtype=np.uint8)[np.newaxis, :, np.newaxis].repeat(16, 0).repeat(3, 2)
    weak = Weak(padding=0)(np.stack([ramp] * 2000), seed=SEED).numpy()[:, 0, 0, 0] == 15
    flipped = drawn(RandomResizedCrop(8), 2000, 16, 16)[-1]
    # An image takes 3 numbers there and 23 here, the first and the last for the flip. Were it one
    # stream of numbers, these would be the same ones.
    weak = weak[15::23]
    assert (weak != flipped[1::3][: len(weak)]).any()


def test_the_layer_returns_from_its_configuration():
    layer = RandomResizedCrop(12, (0.2, 0.5), (0.5, 2.5), False, name="crop")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is RandomResizedCrop
    assert again.get_config() == layer.get_config()
    images = photographs(4, 24, 20)
    np.testing.assert_array_equal(again(images, seed=SEED), layer(images, seed=SEED))


def test_the_layer_works_with_unknown_and_empty_batches():
    layer, images = RandomResizedCrop(16), photographs(10, 24, 20)
    views = tf.data.Dataset.from_tensors(images).map(lambda batch: layer(batch, seed=SEED))
    np.testing.assert_array_equal(next(iter(views)), layer(images, seed=SEED))
    unknown = tf.TensorSpec([None, 24, 20, 3], tf.uint8)
    function = tf.function(lambda images: layer(images, seed=SEED), input_signature=[unknown])
    assert function.get_concrete_function().structured_outputs.shape == [None, 16, 16, 3]
    np.testing.assert_array_equal(function(images), layer(images, seed=SEED))
    assert function(images[:0]).shape == (0, 16, 16, 3)


def test_a_learner_makes_its_views_with_it():
    encoder = daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3))
    crop = RandomResizedCrop(16, (0.5, 1.0))
    learner = daso_tf.FixMatch(encoder, 3, weak=crop, mean=(0.0,) * 3, std=(1.0,) * 3)
    labeled, unlabeled = photographs(4, 24, 20), photographs(6, 24, 20)[::-1]
    seed = tf.constant(SEED)
    views = learner.make_views(tf.constant(labeled), tf.constant(unlabeled), seed)
    assert [tuple(v.shape) for v in views] == [(n, 16, 16, 3) for n in (4, 6, 6)]
    seeds = tf.random.experimental.stateless_split(seed, 4, alg="philox")
    expected = crop(labeled, seed=seeds[0]).numpy() / 255
    np.testing.assert_allclose(views.labeled, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "seed", "error", "message"),
    [
        (np.zeros([8, 8, 3], np.uint8), SEED, ValueError, r"not \(8, 8, 3\)"),
        (np.zeros([2, 8, 8, 1], np.uint8), SEED, ValueError, r"not \(2, 8, 8, 1\)"),
        (np.zeros([2, 8, 8, 3], np.float32), SEED, TypeError, "not float32"),
        (np.zeros([2, 8, 8, 3], np.uint8), (1.0, 2.0), ValueError, "not float32"),
    ],
)
def test_bad_input_is_refused(images, seed, error, message):
    with pytest.raises(error, match=message):
        RandomResizedCrop(4)(images, seed=seed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1, not 0"),
        ({"size": 4.5}, "size must be a whole number of at least 1, not 4.5"),
        ({"scale": (0.0, 1.0)}, r"scale must be two fractions.*not \(0.0, 1.0\)"),
        ({"scale": (0.5, 1.1)}, r"scale must be .*not \(0.5, 1.1\)"),
        ({"scale": (0.5, 0.2)}, r"scale must be .*not \(0.5, 0.2\)"),
        ({"ratio": (0.0, 1.0)}, r"ratio must be two finite aspect ratios.*not \(0.0, 1.0\)"),
        ({"ratio": (2.0, 1.0)}, r"ratio must be .*not \(2.0, 1.0\)"),
        ({"ratio": (1.0,)}, r"ratio must be .*not \(1.0,\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(**arguments)
