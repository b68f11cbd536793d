"""What users of Keras get wrong at first: refused before a step, with advice."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from dense_learner import SIZE, K, dense_learner

import daso_tf
from daso_tf.step import inputs

IMAGES = np.random.default_rng(0).integers(0, 256, (10, SIZE, SIZE, 3), np.uint8)
LABELS = np.arange(10) % K
PAIR = (IMAGES, IMAGES)
FLOATS = IMAGES.astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """A learner that nothing here trains: every call is refused before its first step."""
    model = dense_learner(strong=daso_tf.augment.Weak())
    yield model
    assert int(model.step) == 0 and int(model.optimizer.iterations) == 0


def as_dataset(x, y):
    return tf.data.Dataset.from_tensors((x, y))


def as_generator(x, y):
    return (batch for batch in [(x, y)] * 3)


class Sequence(keras.utils.Sequence):
    """The same batch three times."""

    def __init__(self, x, y):
        if hasattr(super(), "__init__"):
            super().__init__()
        self.batch = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.batch


WAYS = {"dataset": as_dataset, "generator": as_generator, "sequence": Sequence}
LABEL_FAULTS = {
    "column": (LABELS[:, None], r"int64 of shape \((10|None), 1\).* Remove the second axis"),
    "one-hot": (np.eye(K)[LABELS], r"float64 of shape \((10|None), 3\).* np.argmax"),
    "float": (LABELS.astype(np.float32), r'float32 of shape .* labels.astype\("int32"\)'),
    "from 1": (LABELS + 1, r"is 3, outside 0..2; .* subtract 1 if yours are 1..3"),
    "too large": (LABELS * 5, r"is 5, outside 0..2; there are 3 classes. Give num_classes"),
    "unknown": (LABELS - 1, r"is -1, outside 0..2.* belong to the unlabeled images"),
}


@pytest.mark.parametrize("fault", LABEL_FAULTS)
@pytest.mark.parametrize("way", ["arrays", *WAYS])
def test_labels(model, fault, way):
    labels, said = LABEL_FAULTS[fault]
    with pytest.raises(ValueError, match=said):
        if way == "arrays":
            model.fit(PAIR, labels, verbose=0)
        else:
            model.fit(WAYS[way](PAIR, labels), steps_per_epoch=3, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=said):
        if way == "arrays":
            model.evaluate(IMAGES, labels, verbose=0)
        else:
            model.evaluate(WAYS[way](IMAGES, labels), steps=3, verbose=0)


IMAGE_FAULTS = {
    "0 to 1": (FLOATS / 255, "values from 0 to 1; they must have values 0 to 255"),
    "-1 to 1": (FLOATS / 127.5 - 1, "values from -1 to 1;"),
    "standardized": ((FLOATS / 255 - 0.5) / 0.25, "values from -2 to 2;"),
    "mean subtracted": (FLOATS - 110, "values from -110 to 145;"),
    "16 bits": (FLOATS * 257, r"values from 0 to 6.554e\+04;"),
    "not finite": (np.where(FLOATS > 250, np.nan, FLOATS), "values from nan to nan;"),
    "gray": (IMAGES[..., :1], "must be RGB images .* repeat the channel of gray images"),
    "one image": (IMAGES[0], "must be RGB images of shape .* Add the batch axis"),
    "empty": (IMAGES[:0], "The batch has no"),
}


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
@pytest.mark.parametrize("way", ["arrays", *WAYS])
def test_images(model, fault, way):
    images, said = IMAGE_FAULTS[fault]
    labels = LABELS[: len(images)]
    with pytest.raises(ValueError, match=said):
        if way == "arrays":
            model.fit((images, images), labels, verbose=0)
        else:
            batches = WAYS[way]((IMAGES, images), LABELS)
            model.fit(batches, steps_per_epoch=3, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=said):
        model.evaluate(as_dataset(images, labels), verbose=0)
    with pytest.raises(ValueError, match=said):
        model.predict(images, verbose=0)


@pytest.mark.parametrize("scale", [1, 0])
def test_uint8_and_whole_numbers_are_never_refused(scale):
    """Black images, and images of 0 and 1, say nothing about the scale."""
    dark = (IMAGES > 127) * np.uint8(scale)
    for images in (dark, dark.astype(np.float32), dark.astype(np.int64)):
        inputs.Guard(K).checked(inputs.training_parts, (images, images), LABELS)
        raw = inputs.raw(tf.constant(images))
        np.testing.assert_array_equal(raw, dark)


def test_a_filter_may_exceed_the_scale():
    images = np.float32([[[[-20.0, 127.5, 275.0]]]])
    assert inputs.raw(images).numpy().tolist() == [[[[0, 128, 255]]]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"x": IMAGES, "y": LABELS}, r"\(\(labeled, unlabeled\), labels\).*from_arrays"),
        ({"x": (IMAGES, None), "y": LABELS}, "unlabeled images are None"),
        ({"x": PAIR}, "this one has no labels"),
        ({"x": (IMAGES, IMAGES[:5]), "y": LABELS}, "10 labeled images, 5 unlabeled images, 10 lab"),
        ({"x": PAIR, "y": LABELS[:9]}, "here are .* 9 labels"),
        ({"x": PAIR, "y": LABELS, "validation_split": 0.2}, "Give validation_data=daso_tf.data.ev"),
        ({"x": PAIR, "y": LABELS, "class_weight": {0: 2.0}}, "class_weight is not .*LogitAdj"),
        ({"x": PAIR, "y": LABELS, "sample_weight": np.ones(10)}, "sample_weight is not possible"),
        ({"x": PAIR, "y": LABELS, "validation_data": (FLOATS / 255, LABELS)}, "from 0 to 1"),
        ({"x": as_dataset(IMAGES, LABELS)}, "here the images are uint8 of shape"),
        ({"x": tf.data.Dataset.from_tensors((PAIR, LABELS, LABELS))}, "without sample weights"),
    ],
)
def test_fit(model, arguments, said):
    with pytest.raises(ValueError, match=said):
        model.fit(**arguments, verbose=0)


def test_evaluate_and_single_steps(model):
    with pytest.raises(ValueError, match="sample_weight is not possible"):
        model.evaluate(IMAGES, LABELS, sample_weight=np.ones(10))
    with pytest.raises(ValueError, match=r"evaluate is .* there are no labels"):
        model.evaluate(IMAGES)
    with pytest.raises(ValueError, match="predict takes one array"):
        model.predict((IMAGES, IMAGES))
    with pytest.raises(ValueError, match="from 0 to 1"):
        model.train_on_batch((IMAGES, FLOATS[:4] / 255), LABELS)
    with pytest.raises(ValueError, match="from 0 to 1"):
        model(FLOATS / 255)


def test_later_labels_of_a_dataset_are_checked_too(model):
    labels = np.concatenate([LABELS, LABELS + 1])
    batches = tf.data.Dataset.from_tensor_slices((np.concatenate(PAIR), labels)).batch(10)
    with pytest.raises(ValueError, match="subtract 1"):
        model.evaluate(batches, verbose=0)


# Encoders and configuration ------------------------------------------------------------------


def network(*layers):
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers], name="mine")


POOLING = keras.layers.GlobalAveragePooling2D
ENCODER_FAULTS = {
    "none": (lambda: None, "The encoder is None; it must be a keras.Model"),
    "name": (lambda: "wrn_28_2", r"daso_tf.encoders.build\(name"),
    "layer": (lambda: keras.layers.Conv2D(8, 3), "the layer Conv2D.* keras.Sequential"),
    "dense": (
        lambda: network(POOLING(), keras.layers.Dense(K, activation="softmax")),
        "mine ends in a softmax.* include_top=False",
    ),
    "softmax": (lambda: network(POOLING(), keras.layers.Softmax()), "ends in a softmax"),
    "rescaling": (
        lambda: network(keras.layers.Rescaling(1 / 255), POOLING()),
        "mine rescales its input itself.* daso_tf.encoders.application",
    ),
    "normalization": (
        lambda: network(
            keras.layers.Normalization(mean=[110.0] * 3, variance=[9.0] * 3), POOLING()
        ),
        "rescales its input itself",
    ),
    "nested": (
        lambda: network(network(keras.layers.Rescaling(1 / 127.5, offset=-1)), POOLING()),
        "rescales its input itself",
    ),
}


@pytest.mark.parametrize("fault", ENCODER_FAULTS)
@pytest.mark.parametrize("learner", [daso_tf.FixMatch, daso_tf.ClassifierRetraining])
def test_encoders(fault, learner):
    make, said = ENCODER_FAULTS[fault]
    with pytest.raises(ValueError, match=said):
        learner(make(), K, **STATISTICS)


def test_an_encoder_may_reverse_the_normalization_first():
    layers = [keras.layers.Rescaling(63.75, 127.5), keras.layers.Rescaling(1 / 255), POOLING()]
    assert daso_tf.FixMatch(network(*layers), K, **STATISTICS).num_features == 3


def test_a_saved_learner_keeps_an_encoder_that_is_refused_now():
    layers = [keras.layers.Rescaling(63.75, 127.5), keras.layers.Rescaling(1 / 255), POOLING()]
    config = daso_tf.Supervised(network(*layers), K, **STATISTICS).get_config()
    config["encoder"] = keras.saving.serialize_keras_object(network(*layers[1:]))
    assert daso_tf.Supervised.from_config(config).num_features == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, r"mean must be .* Divide statistics of values 0 to 255"),
        ({"std": (58.4, 57.1, 57.4)}, r"std must be .* Divide statistics of values 0 to 255"),
    ],
)
def test_statistics(arguments, said):
    with pytest.raises(ValueError, match=said):
        dense_learner(**arguments)


def test_configuration_of_keras(monkeypatch):
    monkeypatch.setattr(keras.backend, "floatx", lambda: "float16")
    with pytest.raises(ValueError, match=r"floatx\(\) is float16.*mixed_bfloat16"):
        dense_learner()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r'computes with jax.* KERAS_BACKEND="tensorflow"'):
        dense_learner()


def test_unlabeled_images_of_from_arrays():
    with pytest.raises(daso_tf.data.DataError, match=r"unlabeled_images is None.* split off"):
        daso_tf.data.from_arrays(IMAGES, LABELS, None)
