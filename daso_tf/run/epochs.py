"""The epochs of a run: where training stops to evaluate and to save."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from daso_tf.data import SemiSupervisedData, training_batches
from daso_tf.learners import Learner
from daso_tf.platform import strategies
from daso_tf.settings.limits import divisors
from daso_tf.settings.methods import SELF_TRAINING
from daso_tf.settings.settings import Settings


class Stage(NamedTuple):
    """Training in epochs of one length: one call of `fit`, with its arguments."""

    batches: tf.data.Dataset | tf.distribute.DistributedDataset
    steps_per_epoch: int
    initial_epoch: int
    epochs: int


def stages(
    settings: Settings, learner: Learner, data: SemiSupervisedData, last_step: int
) -> Iterator[Stage]:
    """Divides steps into epochs that end at every multiple of `--evaluate_every`.

    The first and the last epoch may be shorter.

    Args:
        settings: Those of the run.
        learner: What is trained; its `step` is the number of steps that are done.
        data: What it is trained on.
        last_step: Where the last epoch ends.
    """
    every = settings.evaluate_every
    step = int(learner.step.numpy())
    while step < last_step:
        length = min(every - step % every, last_step - step)
        epochs = (last_step - step) // every if length == every else 1
        batches = functools.partial(
            training_batches,
            data,
            batch_size=settings.batch_size,
            unlabeled_ratio=settings.unlabeled_ratio,
            seed=settings.seed,
            first_step=step,
            steps=epochs * length,
            device_data=settings.device_data,
            **learner.batch_arguments,
        )
        distributed = strategies.distributed(learner.distribute_strategy, batches)
        yield Stage(distributed, length, step // every, step // every + epochs)
        step += epochs * length


def check(settings: Settings, step: int) -> None:
    """Refuses settings that do not allow whole epochs, before anything is trained.

    Args:
        settings: Those of the run.
        step: The number of steps done so far.

    Raises:
        ValueError: If more steps are done than asked for, or an epoch is not a whole number of
            executions.
    """
    if step > settings.steps:
        raise ValueError(
            f"{settings.model_dir} has been trained for {step} steps already, more than"
            f" --steps={settings.steps}; give at least {step}, or another --model_dir."
        )
    stops = {f"--steps={settings.steps}": settings.steps}
    if settings.evaluate_every < settings.steps:
        stops[f"--evaluate_every={settings.evaluate_every}"] = settings.evaluate_every
    if 0 < settings.checkpoint_every < settings.steps:
        stops[f"--checkpoint_every={settings.checkpoint_every}"] = settings.checkpoint_every
    if settings.pseudo_labeler in SELF_TRAINING and settings.generation_steps < settings.steps:
        stops[f"--generation_steps={settings.generation_steps}"] = settings.generation_steps
    if step:
        stops[f"the {step} steps done so far"] = step
    common = math.gcd(*stops.values())
    if common % settings.steps_per_execution:
        allowed = map(str, divisors(common))
        raise ValueError(
            f"--steps_per_execution={settings.steps_per_execution} must divide {', '.join(stops)},"
            f" because training stops there; allowed values: {', '.join(allowed)}."
        )
