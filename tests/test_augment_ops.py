"""Every operation against Pillow's, bit for bit, in plain graphs and under XLA."""

import functools

import numpy as np
import pillow_views
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

from daso_tf.augment import OPS

COUNT = 8
SIZES = [(8, 8), (32, 32), (21, 34)]  # few, as each is compiled
RANGES = {  # what RandAugment draws from, and beyond
    "brightness": (-1.0, 3.0),
    "color": (-1.0, 3.0),
    "contrast": (-1.0, 3.0),
    "sharpness": (-1.0, 3.0),
    "posterize": (1.0, 8.0),
    "rotate": (-400.0, 400.0),
    "shear_x": (-2.0, 2.0),
    "shear_y": (-2.0, 2.0),
    "solarize": (-1.0, 257.0),
    "translate_x": (-40.0, 40.0),
    "translate_y": (-40.0, 40.0),
}


@functools.cache
def compiled(name, jit_compile):
    return tf.function(OPS[name], jit_compile=jit_compile, reduce_retracing=False)


def assert_equal_to_pillow(name, images, magnitudes):
    expected = np.stack(
        [pillow_views.apply(name, *pair) for pair in zip(images, magnitudes, strict=True)]
    )
    for jit_compile in (False, True):
        result = compiled(name, jit_compile)(tf.constant(images), tf.constant(magnitudes))
        np.testing.assert_array_equal(result, expected, err_msg=f"{name}, {jit_compile=}")


def photographs(height, width, count):
    random = np.random.default_rng(0)
    photo = load_sample_image("china.jpg")
    corners = random.integers([photo.shape[0] - height, photo.shape[1] - width], size=[count, 2])
    return np.stack([photo[y : y + height, x : x + width] for y, x in corners])


@st.composite
def image_batches(draw):
    """Images from plain to busy: constant ones, single-valued channels, narrow ranges, noise."""
    height, width = draw(st.sampled_from(SIZES))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = photographs(height, width, COUNT)
    for i in range(1, COUNT):
        low, high = np.sort(random.integers(256, size=[2, 3]), axis=0)
        kind = draw(st.sampled_from(["noise", "two values", "constant", "constant channel"]))
        if kind == "two values":
            images[i] = np.where(random.random([height, width, 3]) < random.random(), low, high)
        elif kind == "constant":
            images[i] = low
        else:
            images[i] = random.integers(low, high + 1, size=[height, width, 3])
            if kind == "constant channel":
                images[i, ..., random.integers(3)] = low[0]
    return images


@pytest.mark.parametrize("name", OPS)
def test_equals_pillow(name):
    low, high = RANGES.get(name, (0.0, 1.0))
    edges = st.sampled_from([low, high, (low + high) / 2, *range(int(low) + 1, int(high))][:50])

    @settings(derandomize=True, deadline=None, max_examples=25, database=None)
    @given(
        images=image_batches(),
        magnitudes=st.lists(st.floats(low, high) | edges, min_size=COUNT, max_size=COUNT),
    )
    def check(images, magnitudes):
        assert_equal_to_pillow(name, images, np.array(magnitudes))

    check()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (224, 160)])
def test_equals_pillow_at_every_level_on_photographs(name, height, width):
    magnitudes = {
        pillow_views.magnitude(name, level, sign, (width, height))
        for level in pillow_views.LEVELS
        for sign in (-1, 1)
    }
    images = photographs(height, width, len(magnitudes))
    assert_equal_to_pillow(name, images, np.array(sorted(magnitudes), float))


@pytest.mark.parametrize("degrees", [0.0, 45.0, 90.0, 180.0, 270.0, 360.0, -90.0, -1e-20, 1e-20])
@pytest.mark.parametrize("size", [(8, 8), (21, 34)])
def test_rotates_by_right_angles_as_pillow(degrees, size):
    assert_equal_to_pillow("rotate", photographs(*size, COUNT), np.full(COUNT, degrees))


def test_autocontrast_equals_pillow_for_every_range_of_values():
    low, high = np.triu_indices(256)
    values = np.clip(np.arange(256), low[:, np.newaxis], high[:, np.newaxis]).astype(np.uint8)
    values = np.resize(values, [-(-len(values) // 3), 3, 256])
    images = values.transpose([0, 2, 1]).reshape([-1, 16, 16, 3])
    assert_equal_to_pillow("autocontrast", images, np.zeros(len(images)))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 2)])
def test_equals_pillow_on_tiny_images(name, size):
    images = photographs(*size, COUNT)
    magnitudes = np.full(COUNT, 4.0 if name == "posterize" else 0.5)
    expected = [
        pillow_views.apply(name, image, 4.0 if name == "posterize" else 0.5) for image in images
    ]
    np.testing.assert_array_equal(OPS[name](images, magnitudes), expected)


def test_float32_magnitudes_are_taken_exactly():
    images, shear = photographs(32, 32, COUNT), np.linspace(-0.3, 0.3, COUNT, dtype=np.float32)
    expected = [pillow_views.apply("shear_x", *pair) for pair in zip(images, shear, strict=True)]
    np.testing.assert_array_equal(OPS["shear_x"](images, tf.constant(shear)), expected)


def test_names_the_fourteen_operations():
    assert sorted(OPS) == sorted(pillow_views.OPERATIONS)


def test_an_empty_batch_stays_empty():
    for name in OPS:
        assert OPS[name](np.zeros([0, 8, 8, 3], np.uint8), np.zeros(0)).shape == (0, 8, 8, 3)


IMAGES = np.zeros([2, 8, 8, 3], np.uint8)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("images", "magnitude", "error", "message"),
    [
        (IMAGES[0], [1.0], ValueError, r"\[N, H, W, 3\], not \(8, 8, 3\)"),
        (IMAGES[..., :1], [1.0, 1.0], ValueError, r"not \(2, 8, 8, 1\)"),
        (np.zeros([2, 8, 8, 4], np.uint8), [1.0, 1.0], ValueError, r"not \(2, 8, 8, 4\)"),
        (IMAGES.astype(np.float32), [1.0, 1.0], TypeError, "uint8.*not float32"),
        (IMAGES.astype(np.int32), [1.0, 1.0], TypeError, "uint8.*not int32"),
        (IMAGES, [1.0, np.nan], ValueError, r"finite, not \[1.0, nan\]"),
        (IMAGES, [np.inf, 1.0], ValueError, r"finite, not \[inf, 1.0\]"),
        (IMAGES, [1.0], ValueError, r"shape \(2,\), not of shape \(1,\)"),
        (IMAGES, 1.0, ValueError, r"shape \(2,\), not of shape \(\)"),
    ],
)
def test_bad_input_is_refused(name, images, magnitude, error, message):
    with pytest.raises(error, match=message):
        OPS[name](images, magnitude)


def test_a_magnitude_that_a_graph_computes_is_checked_when_it_runs():
    with pytest.raises(tf.errors.InvalidArgumentError, match="magnitude must be finite"):
        tf.function(OPS["rotate"])(IMAGES, tf.constant([1.0, np.nan], tf.float64))


def test_an_unknown_size_is_refused():
    unsized = tf.TensorSpec([None, None, None, 3], tf.uint8)
    with pytest.raises(ValueError, match="known height and width"):
        tf.function(OPS["rotate"]).get_concrete_function(unsized, tf.TensorSpec([None]))


@pytest.mark.parametrize("bits", [0.0, 9.0])
def test_posterize_keeps_one_to_eight_bits(bits):
    with pytest.raises(ValueError, match="1 to 8 bits"):
        OPS["posterize"](IMAGES, [4.0, bits])
