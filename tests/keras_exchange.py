"""Files that one version of Keras writes and the other reads; twenty steps that both compute.

    python tests/keras_exchange.py

writes tests/data/keras_2 with Keras 2.15, and tests/data/keras_3 and tests/data/twenty_steps.json
with Keras 3. Run it with both when the format of a file changes.
"""

import hashlib
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from channels import CIFAR_10

import daso_tf
from daso_tf.encoders import BatchNormalization
from daso_tf.platform.keras_versions import scaled_normal
from daso_tf.run.checkpoints import Checkpoints

DATA = Path(__file__).parent / "data"
TWENTY_STEPS = DATA / "twenty_steps.json"
MAJOR = int(keras.__version__.split(".")[0])
K, SIZE = 3, 8


def small_encoder():
    """Returns an encoder of one convolution."""
    images = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(images)
    slope = {"negative_slope" if MAJOR >= 3 else "alpha": 0.1}  # Keras 3 renamed it
    x = keras.layers.LeakyReLU(**slope)(BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, x, name="small")


def small_learner():
    """Makes a compiled learner with every kind of variable and config that is saved."""
    learner = daso_tf.DASO(
        small_encoder(),
        K,
        queue_size=2,
        pretrain_steps=1,
        distribution_period=2,
        class_names=["ant", "bee", "cicada"],
        **CIFAR_10,
    )
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True)
    learner.compile(optimizer, jit_compile=False)
    return learner


def smooth_encoder():
    """Returns an encoder with smooth activations, in which rounding errors stay small.

    Rounding differs between processors and versions. Where it moves the input of a ReLU across
    zero, the gradient jumps, and a few steps later the losses differ by a thousandth.
    """
    images = x = keras.Input((16, 16, 3))
    for width in (8, 16):
        initializer = scaled_normal(2.0, "fan_out")  # the same draws in both versions
        x = keras.layers.Conv2D(
            width, 3, strides=2, padding="same", kernel_initializer=initializer
        )(x)
        x = keras.layers.Activation("tanh")(BatchNormalization()(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x), name="smooth")


def twenty_steps():
    """Makes the views of twenty steps and trains on them.

    Returns:
        For each step the SHA-256 of its views' bytes and its losses by name. All versions of Keras
        must compute the same.
    """
    keras.utils.set_random_seed(7)
    learner = daso_tf.DASO(
        smooth_encoder(),
        4,
        queue_size=4,
        pretrain_steps=5,
        distribution_period=5,
        threshold=0.5,
        **CIFAR_10,
    )
    learner.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
    make_views, train = tf.function(learner.make_views), tf.function(learner.train_on_views)
    rng = np.random.default_rng(0)
    steps = []
    for step in range(20):
        labels = np.arange(8, dtype=np.int32) % 4
        classes = np.concatenate([labels, rng.integers(0, 4, 16)])
        # The brightness depends on the class; half of the range is noise.
        pictures = rng.integers(0, 128, (24, 16, 16, 3)) + 32 * classes[:, None, None, None]
        labeled, unlabeled = np.split(pictures.astype(np.uint8), [8])
        views = make_views(labeled, unlabeled, tf.constant([7, step]))
        outcome = train(views, labels)
        steps.append(
            {
                "views": hashlib.sha256(
                    b"".join(np.asarray(v).tobytes() for v in views)
                ).hexdigest(),
                "losses": {name: float(loss) for name, loss in outcome.losses.items()},
            }
        )
    return steps


def main():
    """Writes the files that the other version reads."""
    folder = DATA / f"keras_{MAJOR}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    keras.utils.set_random_seed(1)
    learner = small_learner()
    rng = np.random.default_rng(1)
    for _ in range(3):
        images = rng.integers(0, 256, (18, SIZE, SIZE, 3), dtype=np.uint8)
        learner.train_on_batch((images[:6], images[6:]), rng.integers(0, K, 6))
    images = rng.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    learner.save(folder / "learner.keras")
    learner.ema_encoder.save_weights(folder / "encoder.weights.h5")
    Checkpoints(folder / "checkpoints").save(learner)
    learner.export(folder / "export")
    np.savez(
        folder / "answers.npz",
        images=images,
        features=learner.ema_encoder(learner.as_input(images), training=False),
        probabilities=learner.predict(images, verbose=0),
    )
    if MAJOR >= 3:
        TWENTY_STEPS.write_text(json.dumps(twenty_steps(), indent=1) + "\n")


if __name__ == "__main__":
    main()
