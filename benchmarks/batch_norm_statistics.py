"""Accuracy in `evaluate` with three kinds of BatchNorm statistics, for networks of Keras.

`python benchmarks/batch_norm_statistics.py MobileNetV3Small` trains `Supervised` with `ema_decay`
0.99 on generated images of three colors, twice: with the momentum of Keras and with 0.9. Every 25
steps it prints the accuracy of the averaged network with its running statistics, and with those
that `fit` computes before an evaluation.
"""

import sys

import keras
import numpy as np

import daso_tf
from daso_tf.encoders.batch_normalization import batch_norms_of
from daso_tf.step.fresh_statistics import FreshStatistics

SIZE, CLASSES, STEPS, EPOCHS = 32, 3, 25, 3


def images(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise with a little more of the color of its class."""
    labels = np.arange(count) % CLASSES
    noise = rng.normal(110, 40, (count, SIZE, SIZE, 3))
    noise[np.arange(count), :, :, labels] += 25
    return np.clip(noise, 0, 255).astype(np.uint8), labels


def measure(name: str, momentum: float | None) -> None:
    """Trains a network and prints the accuracies.

    Args:
        name: Name in `keras.applications`.
        momentum: Momentum of its BatchNorm layers; None for that of Keras.
    """
    rng = np.random.default_rng(0)
    (training, labels), (test, test_labels) = images(96, rng), images(60, rng)
    data = daso_tf.data.from_arrays(training[:48], labels[:48], training[48:])
    keras.utils.set_random_seed(0)
    encoder = daso_tf.encoders.application(name, SIZE, data.mean, data.std)
    own = [norm.momentum for norm in batch_norms_of(encoder)]
    model = daso_tf.Supervised(encoder, CLASSES, data=data, ema_decay=0.99)
    norms = [batch_norms_of(network) for network in (model.encoder, model.ema_encoder)]
    for layers in norms:
        for norm, of_keras in zip(layers, own, strict=True):
            norm.momentum = of_keras if momentum is None else momentum
    model.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True), jit_compile=False)
    batches = daso_tf.data.training_batches(data, batch_size=24, unlabeled_ratio=1, seed=0)
    # As `map` returns it, `fit` does not know where it comes from, and computes no statistics.
    plain = batches.map(lambda *batch: batch)
    fresh = FreshStatistics(model, batches.daso_tf_position.batches_from)

    def accuracy() -> float:
        return model.evaluate(test, test_labels, batch_size=60, verbose=0, return_dict=True)[
            "accuracy"
        ]

    for _ in range(EPOCHS):
        model.fit(plain, steps_per_epoch=STEPS, shuffle=False, verbose=0)
        running = accuracy()
        variables = [v for n in fresh.norms for v in (n.moving_mean, n.moving_variance)]
        before = [np.array(v) for v in variables]
        fresh.on_test_begin()
        print(
            f"{name}, momentum {momentum or max(own)}, step {int(model.step)}: "
            f"running {running:.3f}, fresh {accuracy():.3f}",
            flush=True,
        )
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


if __name__ == "__main__":
    for network in sys.argv[1:]:
        measure(network, None)
        measure(network, 0.9)
