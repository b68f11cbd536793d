"""Learners with a dense encoder, trained on random views; their steps are fast."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf.learners import FixMatchViews

K, SIZE, D = 3, 8, 5
UNLABELED = 20  # unlabeled images in total
COUNTS = [8, 4, 2]


def dense_learner(learner=daso_tf.FixMatch, **arguments):
    """Makes a compiled learner of K classes, with the same initial weights every time."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.Dense(D, activation="tanh")(keras.layers.Flatten()(image))
    model = learner(keras.Model(image, features), K, **{**STATISTICS, **arguments})
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True), jit_compile=False)
    return model


def step_inputs(step, batch=6, unlabeled=12):
    """Makes FixMatch's views of a step, the labels and the positions of the unlabeled images."""
    rng = np.random.default_rng(step)

    def images(count):
        return tf.constant(rng.normal(size=(count, SIZE, SIZE, 3)), tf.float32)

    views = FixMatchViews(images(batch), weak=images(unlabeled), strong=images(unlabeled))
    positions = rng.permutation(UNLABELED)[:unlabeled]
    return views, tf.constant(rng.integers(0, K, batch)), tf.constant(positions)


def train(model, first, last):
    """Trains the steps `first` to `last - 1`; returns the outcome of the last one."""
    for step in range(first, last):
        outcome = model.train_on_views(*step_inputs(step))
    return outcome


def assert_saved_and_resumed_exactly(model, path):
    """Trains, saves, loads, and trains both copies further: they must stay equal."""
    train(model, 0, 3)
    model.save(path)
    again = keras.saving.load_model(path)
    for twin in (model, again):
        train(twin, 3, 6)
    variables = [twin.weights + twin.optimizer.variables for twin in (model, again)]
    for ours, theirs in zip(*variables, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


def assert_compiles_to_the_same(learner):
    """Trains three steps of `learner()` eagerly and with XLA: the losses must be equal."""
    losses = []
    for compiled in (False, True):
        step = learner().train_on_views
        step = tf.function(step, jit_compile=True, autograph=False) if compiled else step
        losses.append([step(*step_inputs(number)).losses for number in range(3)])
    for eager, compiled in zip(*losses, strict=True):
        for name, value in eager.items():
            assert float(compiled[name]) == pytest.approx(float(value), rel=1e-4), name
