"""The twin of a run: it learns from the labeled images alone.

It has the same network and the same number of steps. On a feature bank it is trained at once, which
takes seconds. Otherwise it is a run of its own in a folder of the run, `labels_only`, which is
evaluated, saved and continued as any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from daso_tf.data import BankedData, SemiSupervisedData, training_batches
from daso_tf.learners import Learner
from daso_tf.platform import strategies
from daso_tf.run.best import best_step, is_over
from daso_tf.run.checkpoints import CheckpointError, Checkpoints
from daso_tf.run.learner import restored
from daso_tf.run.results import Results
from daso_tf.run.run import Run, begin, train
from daso_tf.settings import methods
from daso_tf.settings.build import build_learner
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings


def twin_settings(settings: Settings) -> Settings:
    """Returns the settings of the twin: those of the run, without unlabeled images.

    What has the default of the run's learner gets that of supervised learning. Where a method of
    the run that needs unlabeled images counters the imbalance, the twin has logit adjustment.

    Args:
        settings: Those of a training run, completed.
    """

    def defaults(learner: str) -> dict[str, Any]:
        return methods.defaults(Settings({**settings, "learner": learner}, {"learner"}))

    ours, theirs = defaults(settings.learner), defaults("supervised")
    of_method = {
        name: theirs.get(name, TRAIN[name].default)
        for name, value in ours.items()
        if settings[name] == value
    }
    alone: dict[str, Any] = {
        "learner": "supervised",
        "pseudo_labeler": "linear",
        "threshold": "fixed",
        "open_set": False,
    }
    labeler = methods.PSEUDO_LABELERS[settings.pseudo_labeler].make
    if settings.balanced_head != "none" or "balance" in labeler.refuses:
        alone |= {"balanced_head": "none", "logit_adjustment": 1.0}
    return settings.replace(
        **of_method | alone | {"model_dir": f"{settings.model_dir}/labels_only"}
    )


def train_twin(run: Run) -> None:
    """Trains the twin of a run to its last step, or continues it, where one is asked for.

    Args:
        run: A run that is finished. Every worker must call it.

    Raises:
        Stopped: If it was told to stop; a checkpoint has been saved.
        NonFiniteError: If a loss or a variable becomes nan or infinite.
        DataError: If more image files turn out to be unreadable than may be left out.
    """
    settings = run.settings
    if not settings.compare_labels_only or settings.freeze_encoder:
        return
    own = twin_settings(settings)
    checkpoints = Checkpoints(_folder(own), keep=own.keep_checkpoints)
    twin = begin(own, run.data, run.identity, checkpoints, run.strategy, run.last_step)
    if twin.stages and strategies.is_chief(run.strategy):
        print(f"\nTraining the twin from labeled images alone in {own.model_dir}.", flush=True)
    twin = train(twin)
    # All workers read what one of them has written: they wait for it here.
    strategies.check_same(run.strategy, "step of the twin", int(twin.learner.step.numpy()))


def twin_of(
    settings: Settings, data: SemiSupervisedData, strategy: tf.distribute.Strategy
) -> Learner | None:
    """Returns the trained twin of a run; None where the run itself learns from labels alone.

    Args:
        settings: Those of the run, completed.
        data: Its data.
        strategy: The devices that it predicts on.

    Raises:
        ValueError: If `train_twin` has not finished it.
    """
    if not methods.uses_unlabeled_images(settings):
        return None
    own = twin_settings(settings)
    checkpoints = Checkpoints(_folder(own))
    if isinstance(data, BankedData):
        return _on_bank(own, data, checkpoints)
    path = Path(own.model_dir) / "results.json"
    results = Results(path, data.class_names, data.labeled_counts, None)
    newest = checkpoints.newest_step()
    if newest < own.steps and not (newest and is_over(own, results)):
        raise ValueError(
            f"{own.model_dir} has no finished twin: give the command of the training again, with "
            "--compare_labels_only, to train it; or export the run itself with --answer=run."
        )
    step = best_step(results, checkpoints) if own.best else newest
    return restored(own, data, checkpoints, strategy, step)


def trained(settings: Settings, data: SemiSupervisedData) -> Learner:
    """Trains a learner for all steps of its settings, without evaluations.

    Args:
        settings: Those of a training run, completed.
        data: A feature bank.
    """
    keras.utils.set_random_seed(settings.seed)  # of the initial weights
    return fitted(build_learner(settings, data), settings, data)


def fitted(learner: Learner, settings: Settings, data: SemiSupervisedData) -> Learner:
    """Trains a learner as `trained` does, and returns it.

    Args:
        learner: Made by the settings.
        settings: Those of a training run, completed.
        data: A feature bank.
    """
    batches = training_batches(
        data,
        batch_size=settings.batch_size,
        unlabeled_ratio=settings.unlabeled_ratio,
        seed=settings.seed,
        first_step=0,
        steps=settings.steps,
        **learner.batch_arguments,
    )
    learner.fit(batches, steps_per_epoch=settings.steps, verbose=0, shuffle=False)
    return learner


def _folder(own: Settings) -> Path:
    return Path(own.model_dir) / "checkpoints"


def _on_bank(own: Settings, data: BankedData, checkpoints: Checkpoints) -> Learner:
    """Returns the twin on a feature bank, trained now or by an earlier call."""
    if own.steps in checkpoints.steps():
        keras.utils.set_random_seed(own.seed)
        learner = build_learner(own, data)
        try:
            checkpoints.restore(learner, own.steps)
            return learner
        except CheckpointError:
            pass  # it is damaged, or from other settings
    print(f"\nTraining the twin from labeled images alone, {own.steps:,} steps.", flush=True)
    learner = trained(own, data)
    checkpoints.save(learner)
    return learner
