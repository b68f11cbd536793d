"""Batches, callbacks and files as users of Keras are used to them."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from dense_learner import SIZE, K, dense_learner

import daso_tf
from daso_tf import balance, pseudo_labels, thresholds
from daso_tf.encoders.batch_normalization import batch_norms_of, follow_quickly
from daso_tf.platform.keras_versions import KERAS_3, model_variables
from daso_tf.step.metrics import OneHotLabels

IMAGES = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)
LABELS = np.arange(10) % K
DATA = daso_tf.data.from_arrays(IMAGES[:10], LABELS, IMAGES[10:])
PASS = 4  # batches of 8 unlabeled images; there are 30


def learner(**arguments):
    """Makes a learner whose step is traced in a second."""
    return dense_learner(strong=daso_tf.augment.Weak(), **arguments)


def batches(**options):
    return daso_tf.data.training_batches(
        DATA, **{"batch_size": 4, "unlabeled_ratio": 2, "seed": 0, **options}
    )


def state(model):
    return [np.asarray(tf.convert_to_tensor(weight)) for weight in model_variables(model)]


def assert_same(model, other):
    for one, another in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.fixture(scope="module")
def trained():
    """Three passes over the unlabeled images, as one epoch."""
    model = learner()
    model.fit(batches(steps=3 * PASS), shuffle=False, verbose=0)
    return model


# Batches -------------------------------------------------------------------------------------


def test_an_epoch_is_a_pass_and_the_next_one_continues(trained):
    model, made = learner(), batches()
    next(iter(made))  # looking at a batch changes nothing
    model.fit(made, epochs=2, shuffle=False, verbose=0)
    assert int(model.step) == 2 * PASS
    model.fit(made, shuffle=False, verbose=0)  # a second call continues, too
    assert_same(model, trained)


def test_steps_per_epoch_may_exceed_a_pass(trained):
    model = learner()
    model.fit(batches(), steps_per_epoch=6, epochs=2, shuffle=False, verbose=0)
    assert_same(model, trained)


def test_a_loaded_learner_continues_with_its_next_batch(trained, tmp_path):
    model = learner()
    model.fit(batches(), shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    model.fit(batches(), epochs=2, shuffle=False, verbose=0)
    assert_same(model, trained)


class Interrupt(keras.callbacks.Callback):
    """Stops as a lost machine does, at a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.step.numpy()) == self.step:
            raise KeyboardInterrupt


def test_backup_and_restore_continues_exactly(trained, tmp_path):
    backup = keras.callbacks.BackupAndRestore
    with pytest.raises(KeyboardInterrupt):
        learner().fit(
            batches(),
            epochs=3,
            shuffle=False,
            verbose=0,
            callbacks=[backup(tmp_path), Interrupt(2 * PASS + 1)],
        )
    model = learner()
    model.fit(batches(), epochs=3, shuffle=False, verbose=0, callbacks=[backup(tmp_path)])
    assert_same(model, trained)


@pytest.mark.parametrize("kind", ["dataset", "generator"])
def test_floats_from_0_to_255_are_rounded(trained, kind):
    def as_floats(images, labels):
        labeled, unlabeled = (tf.cast(part, tf.float32) for part in images)
        return (tf.clip_by_value(labeled + 0.3, 0, 255), unlabeled), labels

    floats, model = batches(steps=3 * PASS).map(as_floats), learner()
    if kind == "generator":
        floats = (batch for batch in floats.as_numpy_iterator())
    model.fit(floats, steps_per_epoch=3 * PASS, shuffle=False, verbose=0)
    assert_same(model, trained)


def test_image_dataset_from_directory_works_as_it_is(trained, tmp_path):
    for k in range(K):
        (tmp_path / f"class_{k}").mkdir()
        for number, image in enumerate(IMAGES[:10][k == LABELS]):
            keras.utils.save_img(tmp_path / f"class_{k}" / f"{number}.png", image, scale=False)
    folder = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=(SIZE, SIZE), shuffle=False
    )
    ((images, labels),) = folder.as_numpy_iterator()
    assert images.dtype == np.float32
    scores = trained.evaluate(folder, verbose=0, return_dict=True)
    exact = trained.evaluate(images.astype(np.uint8), labels, verbose=0, return_dict=True)
    assert scores["loss"] == pytest.approx(exact["loss"])
    np.testing.assert_array_equal(
        trained.predict(folder, verbose=0), trained.predict(images.astype(np.uint8), verbose=0)
    )


# Callbacks and files -------------------------------------------------------------------------


RISES = {
    "val_accuracy": True,
    "val_balanced_accuracy": True,
    "val_f1_score": True,
    "val_loss": False,
    "loss": False,
}


def test_callbacks_know_the_direction(tmp_path):
    names = [name for name in RISES if KERAS_3 or name != "val_f1_score"]  # Keras 2 guesses by name
    kinds = {
        "stop": keras.callbacks.EarlyStopping,
        "rate": keras.callbacks.ReduceLROnPlateau,
        "best": lambda name: keras.callbacks.ModelCheckpoint(
            str(tmp_path / "best.keras"), monitor=name, save_best_only=True
        ),
    }
    callbacks = {(kind, name): kinds[kind](name) for kind in kinds for name in names}
    model = learner()
    model.compile(
        keras.optimizers.SGD(0.05),
        jit_compile=False,
        metrics=[OneHotLabels(keras.metrics.F1Score(average="macro"))],
    )
    model.fit(
        batches(steps=1),
        validation_data=daso_tf.data.evaluation_batches(DATA.labeled, 10),
        callbacks=list(callbacks.values()),
        shuffle=False,
        verbose=0,
    )
    found = {key: bool(callback.monitor_op(1.0, 0.0)) for key, callback in callbacks.items()}
    assert found == {(kind, name): RISES[name] for kind, name in callbacks}


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5", "m", "m.weights.h5"])
def test_save_names_the_format_that_holds_everything(trained, tmp_path, name):
    with pytest.raises(ValueError, match=r"does not end in \.keras, .* Save it as .*\.keras;"):
        trained.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# Parts by name -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "name", "expected"),
    [
        ("pseudo_labeler", "daso", pseudo_labels.DASOPseudoLabeler()),
        ("pseudo_labeler", "darp", pseudo_labels.DARPPseudoLabeler([4, 3, 3], 30, start_step=40)),
        ("threshold", "flexmatch", thresholds.FlexMatchThreshold(30)),
        ("threshold", "saw", thresholds.SAWWeight(30, labeled_counts=[4, 3, 3])),
        ("balanced_head", "abc", balance.ABC([4, 3, 3], total_steps=100)),
        ("supervised_loss", "ldam", balance.LDAMLoss([4, 3, 3])),
        ("weak", "random_resized_crop", daso_tf.augment.RandomResizedCrop(SIZE)),
    ],
)
def test_a_name_makes_the_part_of_the_command_line(argument, name, expected):
    model = learner(**{argument: name}, data=DATA, total_steps=100)
    part = getattr(model, argument)
    ours, theirs = part.get_config(), expected.get_config()
    assert {**ours, "name": 0, "dtype": 0} == {**theirs, "name": 0, "dtype": 0}
    assert model.mean == pytest.approx((0.5,) * 3)  # given: that of the data is not taken
    again = type(model).from_config(model.get_config())
    assert type(getattr(again, argument)) is type(part)


def test_a_learner_takes_what_the_data_know():
    image = keras.Input((SIZE, SIZE, 3))
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    model = daso_tf.MeanTeacher(encoder, K, "daso", data=DATA)
    assert model.pseudo_labeler.alignment_weight == 0  # as --learner=mean_teacher has it
    assert (model.mean, model.std, model.class_names) == (DATA.mean, DATA.std, DATA.class_names)
    assert daso_tf.FixMatch(encoder, K, balanced_head="none", data=DATA).balanced_head is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"threshold": "flexmach"}, "no threshold 'flexmach'. Allowed: fixed, flexmatch"),
        ({"threshold": "flexmatch"}, "FlexMatchThreshold, which needs the data: give data="),
        (
            {"balanced_head": "abc", "data": DATA},
            "needs the length of the training: give total_ste",
        ),
        ({"supervised_loss": "ldam"}, "makes a LDAMLoss, which needs the data"),
        ({"pseudo_labeler": "crest"}, "several generations, which only the command trains"),
        ({"learner": daso_tf.USADTM, "pseudo_labeler": "daso"}, "'daso' does not go with USADTM"),
        ({"learner": daso_tf.Supervised, "pseudo_labeler": "daso"}, "does not go with Supervised"),
    ],
)
def test_a_name_that_makes_no_part_is_explained(arguments, said):
    with pytest.raises(ValueError, match=said):
        dense_learner(**arguments)


# Encoders of Keras ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layers"),
    [("MobileNetV2", 52), ("MobileNetV3Small", 34), ("EfficientNetB0", 49), ("DenseNet121", 121)],
)
def test_networks_of_keras_have_statistics_soon(name, layers):
    """A batch makes a tenth of them; with the momentum of Keras, it would make 1 % or less."""
    encoder = daso_tf.encoders.application(name, 32, DATA.mean, DATA.std)
    before = [norm.momentum for norm in batch_norms_of(encoder)]
    follow_quickly(encoder)  # what a learner does
    after = [norm.momentum for norm in batch_norms_of(encoder)]
    assert min(before) >= 0.99 and after == [0.9] * layers


@keras.saving.register_keras_serializable(package="tests")
class Block(keras.layers.Layer):
    """A layer that consists of others."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = keras.layers.Conv2D(8, 3, use_bias=False)
        self.norm = keras.layers.BatchNormalization()

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.norm.build(self.convolution.compute_output_shape(input_shape))

    def call(self, images, training=False):
        return tf.nn.relu(self.norm(self.convolution(images), training=training))

    def get_config(self):
        return super().get_config()


@pytest.fixture(scope="module")
def colors():
    """Images of three colors, learned within some steps."""
    labels = np.arange(60) % K
    images = np.random.default_rng(0).normal(110, 20, (60, SIZE, SIZE, 3))
    images[np.arange(60), :, :, labels] += 60
    images = np.clip(images, 0, 255).astype(np.uint8)
    return daso_tf.data.from_arrays(images[:30], labels[:30], images[30:])


def learner_of_blocks(data, ema_decay):
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.GlobalAveragePooling2D()(Block()(Block()(image)))
    model = daso_tf.Supervised(keras.Model(image, features), K, data=data, ema_decay=ema_decay)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    return model


def lag(model, data):
    """Returns how far features with running statistics are from those with a batch's own."""
    images = model.as_input(tf.constant(data.unlabeled.images))
    running = model.network.ema_features(images, training=False)
    of_batch = model.network.ema_features(images, training=True)
    return float(tf.norm(running - of_batch) / tf.norm(of_batch))


def test_momentum_of_keras_does_not_delay_the_statistics(colors):
    """With 0.99 instead of 0.9, these 40 steps leave two thirds of the initial statistics."""
    model = learner_of_blocks(colors, ema_decay=0)
    pairs = daso_tf.data.training_batches(
        colors, batch_size=15, unlabeled_ratio=1, seed=0, steps=40
    )
    model.fit(pairs.map(lambda images, labels: (images, labels)), shuffle=False, verbose=0)
    assert lag(model, colors) < 0.3


def test_statistics_are_fresh_when_a_learner_is_evaluated_in_fit(colors):
    """An average of 20 steps with decay 0.99 has seen little of what it is evaluated with."""
    pairs = functools.partial(
        daso_tf.data.training_batches, colors, batch_size=15, unlabeled_ratio=1, seed=0, steps=10
    )
    whole, halves = learner_of_blocks(colors, 0.99), learner_of_blocks(colors, 0.99)
    history = whole.fit(
        pairs(),
        epochs=2,
        validation_data=(colors.labeled.images, colors.labeled.labels),
        shuffle=False,
        verbose=0,
    ).history
    assert history["val_accuracy"][-1] > 0.9
    assert lag(whole, colors) < 0.15
    for _ in range(2):
        halves.fit(pairs(), shuffle=False, verbose=0)
    assert lag(halves, colors) < 0.15  # also without a validation


def test_a_loaded_learner_keeps_its_momentum_and_so_do_layers_of_this_library():
    image = keras.Input((SIZE, SIZE, 3))
    x = daso_tf.encoders.BatchNormalization(momentum=0.95)(image)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    encoder = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    model = daso_tf.Supervised(encoder, K, data=DATA)
    assert [norm.momentum for norm in batch_norms_of(model.ema_encoder)] == [0.95, 0.5]
    config = model.get_config()
    encoder.layers[2].momentum = 0.99
    config["encoder"] = keras.saving.serialize_keras_object(encoder)
    again = daso_tf.Supervised.from_config(config)
    assert [norm.momentum for norm in batch_norms_of(again.encoder)] == [0.95, 0.99]
