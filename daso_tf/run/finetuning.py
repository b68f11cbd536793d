"""Fine-tuning: after a run on frozen features, its whole network is trained on the pictures.

It is a run of its own in a folder of the run, `finetuned`, with the same learner and a low learning
rate, which is evaluated, saved and continued as any other.
"""

from __future__ import annotations

import functools
from pathlib import Path

import keras
import tensorflow as tf

from daso_tf.data import BankedData, SemiSupervisedData
from daso_tf.encoders import finetunable
from daso_tf.learners import Learner
from daso_tf.platform import strategies
from daso_tf.run.best import best_step
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.generations import Generation
from daso_tf.run.learner import restored
from daso_tf.run.results import Results
from daso_tf.run.run import Run, begin, train
from daso_tf.settings.build import build_learner
from daso_tf.settings.settings import Settings

_CHECKPOINT_EVERY = 20  # steps, which take seconds each


def finetuning_settings(settings: Settings) -> Settings:
    """Returns the settings of the fine-tuning of a run.

    Args:
        settings: Those of the run, completed.
    """
    return settings.replace(
        freeze_encoder=False,
        steps=settings.finetune_steps,
        learning_rate=settings.finetune_learning_rate,
        warmup_steps=0,
        learning_rate_drops=(),
        cosine="half",
        steps_per_execution=1,
        checkpoint_every=settings.checkpoint_every or _CHECKPOINT_EVERY,
        stop_after=0,
        classifier_weights="random",  # they are those of the run
        model_dir=f"{settings.model_dir}/finetuned",
    )


def finetune(run: Run) -> None:
    """Fine-tunes the network of a run, or continues to, where it is asked for.

    Args:
        run: A run on a feature bank that is finished.

    Raises:
        Stopped: If it was told to stop; a checkpoint has been saved.
        NonFiniteError: If a loss or a variable becomes nan or infinite.
        DataError: If more image files turn out to be unreadable than may be left out.
    """
    settings, data = run.settings, run.data
    if not settings.finetune_steps or not isinstance(data, BankedData):
        return
    learner = run.learner
    if settings.best:
        step = best_step(run.results, run.checkpoints)
        learner = restored(settings, data, run.checkpoints, run.strategy, step)
    own = finetuning_settings(settings)
    tuned = begin(
        own,
        data.pictures,
        run.identity,
        Checkpoints(_folder(own), keep=own.keep_checkpoints),
        run.strategy,
        run.last_step,
        make=functools.partial(_new_learner, data, learner),
    )
    if tuned.stages and strategies.is_chief(run.strategy):
        print(f"\nFine-tuning the whole network on pictures in {own.model_dir}.", flush=True)
    train(tuned)


def finetuned_of(settings: Settings, data: BankedData, learner: Learner) -> Learner | None:
    """Returns the fine-tuned network of a run; None where there is none, or it is not finished.

    Args:
        settings: Those of the run, completed.
        data: Its feature bank.
        learner: What the run has trained.
    """
    own = finetuning_settings(settings)
    checkpoints = Checkpoints(_folder(own))
    if not settings.finetune_steps or checkpoints.newest_step() < own.steps:
        return None
    step = checkpoints.newest_step()
    if own.best:
        path = Path(own.model_dir) / "results.json"
        step = best_step(Results(path, data.class_names, data.labeled_counts, None), checkpoints)
    pictures, alone = data.pictures, strategies.make("none")
    whole = Generation.at(0, own.steps, own.steps)
    tuned = _new_learner(data, learner, own, alone, pictures, pictures, whole)
    checkpoints.restore(tuned, step)
    return tuned


def _folder(own: Settings) -> Path:
    return Path(own.model_dir) / "checkpoints"


def _new_learner(
    bank: BankedData,
    start: Learner,
    settings: Settings,
    strategy: tf.distribute.Strategy,
    data: SemiSupervisedData,
    trained_on: SemiSupervisedData,
    generation: Generation,
) -> Learner:
    """Makes a learner of pictures with the averaged weights of one on frozen features."""
    keras.utils.set_random_seed(settings.seed)
    with strategy.scope():
        encoder = finetunable(bank.encoder, start.ema_encoder)
        learner = build_learner(settings, data, encoder=encoder, bank=bank)
    network, of_start = learner.network, start.network
    for layers in (
        [network.classifier, *network.heads],
        [network.ema_classifier, *network.ema_heads],
    ):
        averages = [of_start.ema_classifier, *of_start.ema_heads]
        for layer, average in zip(layers, averages, strict=True):
            layer.set_weights(average.get_weights())
    return learner
