"""The compiled step: traced once, several steps per call, few calls of callbacks."""

import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, parsed, run_train
from dense_learner import SIZE, K, dense_learner

import daso_tf
from daso_tf.platform.keras_versions import KERAS_3
from daso_tf.platform.last_step import LastStep
from daso_tf.pseudo_labels import DASOPseudoLabeler
from daso_tf.run.callbacks import PacedCallbacks
from daso_tf.run.preparation import prepare

B, MU, STEPS = 4, 2, 12


class Traced(daso_tf.FixMatch):
    """Counts how often Keras traces its steps."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.traces = {"train": 0, "test": 0, "predict": 0}

    def train_step(self, data):
        self.traces["train"] += 1
        return super().train_step(data)

    def test_step(self, data):
        self.traces["test"] += 1
        return super().test_step(data)

    def predict_step(self, data):
        self.traces["predict"] += 1
        return super().predict_step(data)


def learner(steps_per_execution=1, jit_compile=False):
    """FixMatch + DASO whose pretraining ends after 5 steps."""
    labeler = DASOPseudoLabeler(queue_size=3, pretrain_steps=5, distribution_period=2)
    strong = daso_tf.augment.RandAugment(num_ops=0, cutout=2)
    model = dense_learner(Traced, pseudo_labeler=labeler, strong=strong, threshold=0.2)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    return model


@functools.cache
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, SIZE, SIZE, 3), dtype=np.uint8)
    labels = rng.integers(0, K, 60)
    return daso_tf.data.from_arrays(images[:20], labels[:20], images[20:])


def fit(model, steps_per_epoch=4, **settings):
    batches = daso_tf.data.training_batches(data(), batch_size=B, unlabeled_ratio=MU, seed=0)
    epochs = STEPS // steps_per_epoch
    return model.fit(
        batches,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        **settings,
    )


def state(model):
    return [np.array(variable) for variable in (*model.weights, *model.optimizer.variables)]


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_nothing_is_traced_again_after_the_first_epoch(steps_per_execution):
    model = learner(steps_per_execution)
    # 10 images in batches of 4, 4 and 2.
    test = tf.data.Dataset.from_tensor_slices((data().labeled.images[:10], np.zeros(10, int)))
    even = daso_tf.data.even_batches(data().labeled, 8)
    counts = []

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.predict(even, verbose=0)
            counts.append(dict(self.model.traces))

    fit(model, validation_data=test.batch(4), callbacks=[Evaluate()])
    # Pretraining ended in the second of the three epochs.
    assert int(model.step) == STEPS > model.pseudo_labeler.pretrain_steps > 4
    assert counts[0] == counts[1] == counts[2]
    # Keras 2 traces a loop over steps twice: the first trace shows what it returns.
    assert set(counts[0].values()) <= ({1} if KERAS_3 or steps_per_execution == 1 else {1, 2})


def test_step_under_xla_is_traced_and_compiled_once():
    model = learner()
    step = tf.function(model.train_step, jit_compile=True, reduce_retracing=True)
    batches = daso_tf.data.training_batches(
        data(), batch_size=B, unlabeled_ratio=MU, seed=0, steps=STEPS
    )
    for batch in batches:  # XLA cannot compile operations that run on the host
        step(batch)
    assert int(model.step) == STEPS
    assert model.traces["train"] == step.experimental_get_tracing_count() == 1


def test_several_steps_at_a_time_are_the_same_steps_exactly():
    one, four = learner(1), learner(4)
    histories = [fit(model).history for model in (one, four)]
    assert histories[0] == histories[1]
    for a, b in zip(state(one), state(four), strict=True):
        np.testing.assert_array_equal(a, b)


def test_prediction_runs_batch_by_batch_whatever_steps_per_execution_is():
    model, images = learner(4), data().labeled.images
    probabilities = [twin.predict(images, batch_size=5, verbose=0) for twin in (model, learner(1))]
    np.testing.assert_array_equal(*probabilities)
    assert model.traces["predict"] == 1  # not one copy for each of the four batches
    assert int(model.steps_per_execution) == 4


def test_even_batches_have_every_image_once_and_repeat_the_last():
    for count, size, expected in ((10, 4, [4, 4, 4]), (8, 4, [4, 4]), (3, 8, [3]), (9, 8, [5, 5])):
        images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), "u1")
        batches = daso_tf.data.even_batches(daso_tf.data.Images(images, np.arange(count)), size)
        assert batches.element_spec[0].shape == (expected[0], 2, 2, 3)
        labels = [labels.numpy() for _, labels in batches]
        assert [len(part) for part in labels] == expected
        together = np.concatenate(labels)
        np.testing.assert_array_equal(together, np.minimum(np.arange(len(together)), count - 1))
        np.testing.assert_array_equal(
            np.concatenate([images.numpy()[:, 0, 0, 0] for images, _ in batches]), together
        )


@pytest.mark.parametrize(
    ("interval", "heard"), [(0, [[0, 1, 2], [0, 1, 2]]), (float("inf"), [[], []])]
)
def test_callbacks_are_called_once_per_interval_and_after_every_epoch(interval, heard):
    model, steps, epochs = learner(), [], []

    class Record(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            steps.append([])

        def on_train_batch_end(self, batch, logs=None):
            steps[-1].append(batch)

        def on_epoch_end(self, epoch, logs=None):
            epochs.append(logs)

    callbacks = PacedCallbacks(
        [Record()],
        model,
        3,
        2,
        verbose=0,
        last_step=LastStep(),
        after_step=lambda batch, stops: None,
        interval=interval,
    )
    batches = daso_tf.data.training_batches(data(), batch_size=B, unlabeled_ratio=MU, seed=0)
    history = model.fit(batches, steps_per_epoch=3, epochs=2, callbacks=callbacks, verbose=0)
    assert steps == heard
    assert [epoch["loss"] for epoch in epochs] == pytest.approx(history.history["loss"])


def test_flag_reaches_keras(tmp_path):
    run = prepare(parsed(*arguments(model_dir=tmp_path, steps=4, steps_per_execution=2)))
    assert int(run.learner.steps_per_execution) == 2
    assert [stage.steps_per_epoch for stage in run.stages] == [4]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 12, "evaluate_every": 8}, "--steps=12, --evaluate_every=8, .*: 1, 2, 4."),
        ({"steps": 10, "evaluate_every": 500}, "--steps=10, because .*: 1, 2, 5, 10."),
        (
            {"steps": 30, "evaluate_every": 30, "generation_steps": 9, "pseudo_labeler": "crest"},
            "--steps=30, --generation_steps=9, .*: 1, 3.",
        ),
    ],
)
def test_executions_that_do_not_divide_an_epoch_are_refused(tmp_path, capsys, settings, said):
    command = arguments(model_dir=tmp_path / "run", steps_per_execution=6, **settings)
    assert run_train(*command) == 2
    message = capsys.readouterr().err
    assert "--steps_per_execution=6 must divide" in message
    assert re.search(said, message)
    assert not (tmp_path / "run").exists()
