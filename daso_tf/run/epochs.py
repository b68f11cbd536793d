"""The epochs that a run is cut into: where training stops to evaluate and to save."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf.data import SemiSupervisedData, training_batches
from daso_tf.platform import strategies
from daso_tf.settings.build import SELF_TRAINING


class Stretch(NamedTuple):
    """Training steps in epochs of one length: one call of `fit`."""

    batches: tf.data.Dataset | tf.distribute.DistributedDataset
    steps_per_epoch: int
    initial_epoch: int
    epochs: int


def stretches(
    flags, learner: keras.Model, data: SemiSupervisedData, last_step: int
) -> Iterator[Stretch]:
    """Cuts steps so that an epoch ends at every multiple of `evaluate_every`.

    The first and the last epoch may be shorter, where the run was or will be cut between two.

    Args:
        flags: an object with the settings of `daso_tf.flags` as attributes.
        learner: what is trained; it says how many steps are done.
        data: what it is trained on.
        last_step: where the last epoch ends.
    """
    every = flags.evaluate_every
    step = int(learner.step.numpy())
    while step < last_step:
        length = min(every - step % every, last_step - step)
        epochs = (last_step - step) // every if length == every else 1
        batches = functools.partial(
            training_batches,
            data,
            batch_size=flags.batch_size,
            unlabeled_ratio=flags.unlabeled_ratio,
            seed=flags.seed,
            first_step=step,
            with_positions=learner.needs_positions,
            class_balanced=learner.class_balanced_batches,
        )
        batches = strategies.distributed(learner.distribute_strategy, batches)
        yield Stretch(batches, length, step // every, step // every + epochs)
        step += epochs * length


def check(flags, step: int) -> None:
    """Refuses what no epochs can be made of, before anything is trained.

    Args:
        flags: an object with the settings of `daso_tf.flags` as attributes.
        step: the steps done so far.

    Raises:
        ValueError: more steps are done than asked for, or an epoch is no whole number of
            executions.
    """
    if step > flags.steps:
        raise ValueError(
            f"{flags.model_dir} has been trained for {step} steps already, past"
            f" --steps={flags.steps}; give at least {step}, or another --model_dir."
        )
    cuts = {f"--steps={flags.steps}": flags.steps}
    if flags.evaluate_every < flags.steps:
        cuts[f"--evaluate_every={flags.evaluate_every}"] = flags.evaluate_every
    if flags.pseudo_labeler in SELF_TRAINING and flags.generation_steps < flags.steps:
        cuts[f"--generation_steps={flags.generation_steps}"] = flags.generation_steps
    if step:
        cuts[f"the {step} steps done so far"] = step
    common = math.gcd(*cuts.values())
    if common % flags.steps_per_execution:
        fitting = [str(n) for n in range(1, common + 1) if common % n == 0]
        raise ValueError(
            f"--steps_per_execution={flags.steps_per_execution} has to divide"
            f" {', '.join(cuts)}, as training stops there; values that do:"
            f" {', '.join(fitting)}."
        )
