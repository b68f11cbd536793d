"""Resizing against Pillow's, normalizing against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from daso_tf.augment import normalize, resize

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def images_of(height, width):
    random = np.random.default_rng(0)
    photo = load_sample_image("china.jpg")[:height, :width]
    return np.stack([photo, random.integers(256, size=photo.shape, dtype=np.uint8)])


@pytest.mark.parametrize("mode", ["eager", "xla", "unknown sizes"])
@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((96, 96), (32, 32)),
        ((33, 47), (16, 20)),
        ((224, 200), (32, 32)),
        ((20, 24), (32, 48)),
        ((40, 32), (24, 32)),
        ((300, 1), (7, 7)),
    ],
)
def test_resizes_as_pillow_within_one_gray_level(source, size, mode):
    def function(images):
        return resize(images, size)

    if mode == "xla":
        function = tf.function(function, jit_compile=True)
    if mode == "unknown sizes":
        unknown = tf.TensorSpec([None, None, None, 3], tf.uint8)
        function = tf.function(function, input_signature=[unknown])
    images = images_of(*source)
    result = function(images).numpy()
    assert result.dtype == np.uint8
    bilinear = Image.Resampling.BILINEAR
    expected = [np.asarray(Image.fromarray(i).resize(size[::-1], bilinear)) for i in images]
    difference = np.abs(result.astype(int) - np.stack(expected))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.15  # a tie falls either way


def test_images_of_the_size_stay():
    images = tf.constant(images_of(32, 24))
    assert resize(images, (32, 24)) is images
    unknown = tf.TensorSpec([None, None, None, 3], tf.uint8)
    resized = tf.function(lambda images: resize(images, (32, 24)), input_signature=[unknown])
    np.testing.assert_array_equal(resized(images), images)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_normalizes_each_channel(jit_compile):
    images = images_of(32, 32)
    views = tf.function(lambda images: normalize(images, MEAN, STD), jit_compile=jit_compile)
    result = views(images)
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, (images / 255 - MEAN) / STD, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros([8, 8, 3], np.uint8), ValueError, r"not \(8, 8, 3\)"),
        (np.zeros([2, 8, 8, 1], np.uint8), ValueError, r"not \(2, 8, 8, 1\)"),
        (np.zeros([2, 8, 8, 3], np.float32), TypeError, "not float32"),
    ],
)
def test_bad_images_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        resize(images, (4, 4))
    with pytest.raises(error, match=message):
        normalize(images, MEAN, STD)


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, 4.5), (-1, 4)])
def test_a_bad_size_is_refused(size):
    with pytest.raises(ValueError, match="size must be"):
        resize(images_of(8, 8), size)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), STD, r"mean must be three numbers in \[0, 1\].*not \(0.5,\)\.$"),
        ((0.5, -0.1, 0.5), STD, r"mean must be .*not \(0.5, -0.1, 0.5\)\.$"),
        ((125, 123, 114), STD, r"mean must be .*\. Divide statistics of values 0 to 255 by 255"),
        ((np.nan, 0.5, 0.5), STD, r"mean must be .*not \(nan, 0.5, 0.5\)\.$"),
        (MEAN, (0.2, 0.2), r"std must be three numbers in \(0, 1\].*not \(0.2, 0.2\)\.$"),
        (MEAN, (1, 0, 1), r"std must be .*not \(1.0, 0.0, 1.0\)\.$"),
        (MEAN, (63, 62, 66), r"std must be .*\. Divide statistics of values 0 to 255 by 255"),
    ],
)
def test_bad_statistics_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        normalize(images_of(8, 8), mean, std)
