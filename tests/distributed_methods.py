"""Trains methods on one device and on two replicas, in a separate process.

Prints the largest difference of a variable, relative to its largest value, as JSON by method.
"""

import functools
import json

import distributed_steps
import keras
import numpy as np
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf import balance, pseudo_labels, thresholds
from daso_tf.data import training_batches
from daso_tf.platform import strategies
from daso_tf.platform.keras_versions import model_variables

COUNTS, UNLABELED, STEPS = [20, 13, 7], 90, 3

# Methods that remember something of a batch, each in another way.
METHODS = {
    "usadtm": (daso_tf.USADTM, {"pretrain_steps": 0, "confidence_threshold": 0.4}),
    "darp": (
        daso_tf.FixMatch,
        {
            "pseudo_labeler": pseudo_labels.DARPPseudoLabeler(
                COUNTS, UNLABELED, start_step=0, period=1
            )
        },
    ),
    "debiaspl": (
        daso_tf.FixMatch,
        {"pseudo_labeler": pseudo_labels.DebiasedPseudoLabeler()},
    ),
    "cdmad": (daso_tf.FixMatch, {"pseudo_labeler": pseudo_labels.CDMADPseudoLabeler(0, 1)}),
    "cossl": (daso_tf.FixMatch, {"balanced_head": balance.CoSSL(COUNTS, teach_after=1)}),
    "freematch": (daso_tf.FixMatch, {"threshold": thresholds.FreeMatchThreshold()}),
    "adsh": (
        daso_tf.FixMatch,
        {"threshold": thresholds.ADSHThreshold(COUNTS, UNLABELED, 0.4, epoch_steps=1)},
    ),
}


def trained(method, strategy):
    """Returns every variable after some steps."""
    learner, arguments = METHODS[method]
    # New copies of the parts: those of the table belong to the learner that has built them.
    arguments = {
        name: type(part).from_config(part.get_config()) if hasattr(part, "get_config") else part
        for name, part in arguments.items()
    }
    if learner is not daso_tf.USADTM:
        arguments.setdefault("threshold", 0.4)
    # Its trace takes a fraction of the time of RandAugment's, which distributed_steps.py tests.
    arguments["strong"] = daso_tf.augment.Weak()
    with strategy.scope():
        model = learner(distributed_steps.encoder(), len(COUNTS), **STATISTICS, **arguments)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), jit_compile=False)
    batches = functools.partial(
        training_batches,
        distributed_steps.data(),
        batch_size=distributed_steps.BATCH,
        unlabeled_ratio=distributed_steps.RATIO,
        seed=0,
        **model.batch_arguments,
    )
    model.fit(
        strategies.distributed(strategy, batches), steps_per_epoch=STEPS, shuffle=False, verbose=0
    )
    return [np.asarray(variable, np.float64) for variable in model_variables(model)]


def difference(one, other):
    """Returns the largest difference, relative to the largest value of its variable."""
    pairs = zip(one, other, strict=True)
    return max(np.abs(a - b).max() / (np.abs(a).max() or 1) for a, b in pairs)


def main():
    """Compares one method after another."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device, device])
    alone, two = tf.distribute.get_strategy(), strategies.make("mirrored")
    assert two.num_replicas_in_sync == 2
    found = {method: difference(trained(method, alone), trained(method, two)) for method in METHODS}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
