"""What XLA makes of the programs for a GPU, compiled on a CPU: no step waits for the host.

A GPU runs its program without the host, unless the program has a loop or a branch that the host
decides, or exchanges data with the host. XLA writes `known_trip_count` at a loop whose number of
rounds it knows when it compiles; all other loops depend on data.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf.augment import RandAugment
from daso_tf.platform import cores
from daso_tf.pseudo_labels import DASOPseudoLabeler

# Branches whose condition the program computes, and all instructions that exchange data with the
# host: a call of a function of the host is a custom call.
WAITS = {
    "conditional",
    "custom-call",
    "infeed",
    "outfeed",
    "send",
    "send-done",
    "recv",
    "recv-done",
}


def instructions(function, *arguments):
    """Yields the name and the text of every instruction of a function that XLA compiles."""
    program = function.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    for line in program.splitlines():
        found = re.match(r"\s+(?:ROOT )?\S+ = (?:\(.*?\)|\S+) ([a-z-]+)\(", line)
        if found:
            yield found[1], line


def waiting(function, *arguments):
    """Returns the names of the instructions at which a GPU would wait for the host."""
    found = list(instructions(function, *arguments))
    assert {"fusion", "parameter"} <= {name for name, _ in found}  # the text was understood
    loops = [text for name, text in found if name == "while"]
    endless = ["while" for text in loops if '"known_trip_count"' not in text]
    return endless + [name for name, _ in found if name in WAITS], len(loops)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(cores, "gpus", lambda: 1)


def strong_views():
    layer = RandAugment()
    views = tf.function(lambda images, seed: layer(images, seed=seed), jit_compile=True)
    return waiting(views, tf.zeros([8, 16, 16, 3], tf.uint8), tf.constant([3, 5]))


def test_the_strong_views_have_one_loop_over_the_operations_of_an_image(gpu):
    assert strong_views() == ([], 1)


def test_the_program_for_a_cpu_would_wait():
    assert {"while", "conditional"} <= set(strong_views()[0])


def test_a_step_of_fixmatch_with_daso_runs_without_the_host(gpu):
    encoder = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, strides=2, use_bias=False),
            daso_tf.encoders.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    labeler = DASOPseudoLabeler(queue_size=8, pretrain_steps=2)
    learner = daso_tf.FixMatch(encoder, 4, labeler, **STATISTICS)
    learner.compile(keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True))
    learner.optimizer.build(learner.trainable_variables)
    step = tf.function(learner.train_step, jit_compile=True, autograph=False)
    images = [tf.zeros([count, 16, 16, 3], tf.uint8) for count in (4, 8)]
    labels = tf.constant(np.arange(4), tf.int32)
    assert waiting(step, (tuple(images), labels)) == ([], 1)
