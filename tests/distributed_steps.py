"""Trains on several replicas in a separate process: `distributed_steps.py FOLDER REPLICAS`.

The replicas are logical devices of one CPU, which must be configured before TensorFlow starts.
"""

import functools
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf.data import from_arrays, training_batches
from daso_tf.platform import replicas as replicas_of_step
from daso_tf.platform import strategies
from daso_tf.pseudo_labels import DASOPseudoLabeler
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.prediction import Prediction

STEPS, BATCH, RATIO, CLASSES = 20, 12, 2, 3


@keras.saving.register_keras_serializable(package="tests")
class Recorded(DASOPseudoLabeler):
    """Remembers the final pseudo-labels of every step."""

    def build(self, input_shape):
        super().build(input_shape)
        shape = (STEPS, BATCH * RATIO)
        self.seen = self.add_weight(
            name="seen", shape=shape, initializer="zeros", trainable=False, dtype="int64"
        )

    def update(self, pseudo_labels, step):
        super().update(pseudo_labels, step)
        final = replicas_of_step.gather(pseudo_labels.final)[None]
        self.seen.assign(tf.tensor_scatter_nd_update(self.seen, [[step]], final))


def data():
    rng = np.random.default_rng(0)
    return from_arrays(
        rng.integers(0, 256, (40, 8, 8, 3), np.uint8),
        np.resize([0, 0, 0, 1, 1, 2], 40),
        rng.integers(0, 256, (90, 8, 8, 3), np.uint8),
        unlabeled_labels=rng.integers(0, CLASSES, 90),
    )


def encoder():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(8, 3, use_bias=False)(image)
    features = keras.layers.LeakyReLU()(daso_tf.encoders.BatchNormalization()(features))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(features))


def learner():
    labeler = Recorded(
        queue_size=6, pretrain_steps=8, distribution_period=5, distribution_temperature=1.0
    )
    model = daso_tf.FixMatch(encoder(), CLASSES, labeler, threshold=0.4, **STATISTICS)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), jit_compile=False)
    return model


def train(model, start, output, steps):
    """Trains from the newest checkpoint in a folder up to a step, and saves one in another."""
    assert Checkpoints(start).restore(model)
    done = int(model.step.numpy())
    batches = functools.partial(
        training_batches, data(), batch_size=BATCH, unlabeled_ratio=RATIO, seed=0, first_step=done
    )
    logs = model.fit(
        strategies.distributed(model.distribute_strategy, batches),
        steps_per_epoch=steps - done,
        shuffle=False,
        verbose=0,
    ).history
    Checkpoints(output).save(model)
    (output / "logs.json").write_text(json.dumps(logs))


def main(folder, replicas):
    """Trains the whole run and half of it, then the second half of the run of one device."""
    device = tf.config.LogicalDeviceConfiguration()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [device] * replicas)
    strategy = strategies.make("mirrored")
    assert strategy.num_replicas_in_sync == replicas
    with strategy.scope():
        model = learner()
    attributes = set(vars(model.optimizer))
    train(model, folder / "start", folder / "replicas", STEPS)
    assert set(vars(model.optimizer)) == attributes  # it is the user's object
    train(model, folder / "start", folder / "replicas_half", STEPS // 2)
    train(model, folder / "half", folder / "replicas_rest", STEPS)
    images = data().unlabeled
    predict = Prediction(model, batch_size=16)
    for _ in range(2):
        probabilities = predict(images)
    assert predict.trace_count == 1
    np.save(folder / "probabilities.npy", probabilities)
    model.save(folder / "model.keras")
    model.export(folder / "export")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
