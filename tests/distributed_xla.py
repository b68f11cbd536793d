"""Trains on two replicas with and without XLA, in a separate process: `distributed_xla.py RUN`.

RUN is a key of RUNS. Prints JSON: the largest difference of a variable, relative to its largest
value, where XLA compiles the networks ("variables") and where it compiles BatchNorm, which is
synchronized ("batch_norm"); the largest difference of the predictions; and the error message where
XLA should compile networks with synchronized BatchNorm ("refusal").
"""

import functools
import json
import sys

import distributed_steps
import keras
import numpy as np
import tensorflow as tf
from channels import STATISTICS
from distributed_methods import difference

import daso_tf
from daso_tf.data import training_batches
from daso_tf.encoders.batch_normalization import batch_norms_of
from daso_tf.platform import strategies
from daso_tf.platform.keras_versions import model_variables
from daso_tf.pseudo_labels import DASOPseudoLabeler
from daso_tf.run.prediction import Prediction

STEPS = 4

# Learners that call the networks in different ways.
RUNS = {
    "daso": lambda encoder: daso_tf.FixMatch(
        encoder,
        distributed_steps.CLASSES,
        DASOPseudoLabeler(
            queue_size=6, pretrain_steps=2, distribution_period=2, distribution_temperature=1.0
        ),
        threshold=0.4,
        strong=daso_tf.augment.Weak(),
        **STATISTICS,
    ),
    "mean_teacher": lambda encoder: daso_tf.MeanTeacher(
        encoder, distributed_steps.CLASSES, **STATISTICS
    ),
}


def made(run, synchronized, jit_compile):
    """Makes a learner and compiles it."""
    encoder = distributed_steps.encoder()
    for norm in batch_norms_of(encoder):
        norm.synchronized = synchronized
    model = RUNS[run](encoder)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    model.compile(optimizer, jit_compile=jit_compile)
    return model


def trained(run, strategy, jit_compile, synchronized=False):
    """Returns every variable after some steps, and predictions."""
    with strategy.scope():
        model = made(run, synchronized, jit_compile)
    data = distributed_steps.data()
    batches = functools.partial(
        training_batches,
        data,
        batch_size=distributed_steps.BATCH,
        unlabeled_ratio=distributed_steps.RATIO,
        seed=0,
    )
    model.fit(
        strategies.distributed(strategy, batches), steps_per_epoch=STEPS, shuffle=False, verbose=0
    )
    variables = [np.asarray(variable, np.float64) for variable in model_variables(model)]
    return variables, Prediction(model, batch_size=16)(data.unlabeled)


def main(run):
    """Compares training with and without XLA."""
    device = tf.config.LogicalDeviceConfiguration()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [device] * 2)
    strategy = strategies.make("mirrored")
    (graph, graph_predicts), (xla, xla_predicts) = (
        trained(run, strategy, jit_compile) for jit_compile in (False, True)
    )
    found = {
        "variables": difference(graph, xla),
        "batch_norm": difference(
            *(trained(run, strategy, jit_compile, True)[0] for jit_compile in (False, "batch_norm"))
        ),
        "predictions": float(np.abs(graph_predicts - xla_predicts).max()),
    }
    try:
        with strategy.scope():
            made(run, synchronized=True, jit_compile=True)
    except ValueError as error:
        found["refusal"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
