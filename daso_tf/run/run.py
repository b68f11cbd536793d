"""A training run: begin it where it stopped, and train it generation by generation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from daso_tf.data import SemiSupervisedData, reading
from daso_tf.data.copies import Copy
from daso_tf.data.identity import Identity
from daso_tf.learners import Learner
from daso_tf.platform import strategies
from daso_tf.platform.last_step import LastStep
from daso_tf.run import distribution_estimate, epochs
from daso_tf.run.best import best_step, is_over
from daso_tf.run.callbacks import (
    ContinueMetrics,
    Evaluation,
    PacedCallbacks,
    SaveCheckpoint,
    ShortProgress,
    StopAtNonFiniteLoss,
    TimeLeft,
)
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.generations import Generation, PseudoLabeledImages
from daso_tf.run.learner import generation_length, new_learner
from daso_tf.run.open_set import Detector, FitOpenSet
from daso_tf.run.prediction import Prediction
from daso_tf.run.results import Results
from daso_tf.settings.settings import Settings


class Run(NamedTuple):
    """What training needs, checked and ready.

    Attributes:
        settings: The settings of the run, completed.
        strategy: The devices that it trains on.
        model_dir: The folder of the run.
        data: Its data, as loaded.
        identity: What the data consists of.
        generation: The generation of self-training that trains next; the only one without it.
        learner: What is trained, in the state of the newest checkpoint.
        checkpoints: Those of the run.
        results: Its evaluations so far.
        stages: What is left to train in this generation.
        last_step: When to stop early.
        copies: The copies among all images that the run selected; None where they were not
            searched.
    """

    settings: Settings
    strategy: tf.distribute.Strategy
    model_dir: Path
    data: SemiSupervisedData
    identity: Identity
    generation: Generation
    learner: Learner
    checkpoints: Checkpoints
    results: Results
    stages: list[epochs.Stage]
    last_step: LastStep
    copies: Sequence[Copy] | None = None


def begin(
    settings: Settings,
    data: SemiSupervisedData,
    identity: Identity,
    checkpoints: Checkpoints,
    strategy: tf.distribute.Strategy,
    last_step: LastStep,
    make: Callable[..., Learner] = new_learner,
) -> Run:
    """Makes the learner of the newest checkpoint, or of the generation that follows it.

    Args:
        settings: The settings of the run, completed.
        data: The data of the run.
        identity: What the data consists of.
        checkpoints: Those of the run so far.
        strategy: The devices that it trains on.
        last_step: When to stop early.
        make: Makes a learner with its initial weights, as `new_learner`.
    """
    model_dir = Path(settings.model_dir)
    whole_run = Generation.at(0, settings.steps, settings.steps)
    learner = make(settings, strategy, data, data, whole_run)
    # It may be that of a later generation, for its step and its predictions; see below.
    checkpoints.restore(learner, resized_after=generation_length(settings))
    step = int(learner.step.numpy())
    strategies.check_same(strategy, "step of the newest checkpoint", step)
    epochs.check(settings, step)
    generation = Generation.at(step, generation_length(settings), settings.steps)
    trained_on = data
    if generation.number:
        images = PseudoLabeledImages(model_dir / "generations", checkpoints.unlabeled)
        if step == generation.first_step:
            with reading(data):
                images.choose(
                    generation,
                    Prediction(learner, settings.evaluation_batch_size),
                    data,
                    settings.crest_alpha,
                    write=strategies.is_chief(strategy),
                )
            # All workers read what one of them has written: they wait for it here.
            strategies.check_same(strategy, "generation", generation.number)
        trained_on = images.added_to(data, generation)
        learner = make(settings, strategy, data, trained_on, generation)
        if step > generation.first_step:
            checkpoints.restore(learner)
    stages = list(epochs.stages(settings, learner, trained_on, generation.last_step))
    results = results_of(settings, data, identity)
    results.forget_after(step)
    if settings.best and results.evaluations:
        best_step(results, checkpoints)
    if is_over(settings, results):
        stages = []
    return Run(
        settings,
        strategy,
        model_dir,
        data,
        identity,
        generation,
        learner,
        checkpoints,
        results,
        stages,
        last_step,
    )


def results_of(settings: Settings, data: SemiSupervisedData, identity: Identity) -> Results:
    """Returns the evaluations of a run so far."""
    return Results(
        Path(settings.model_dir) / "results.json",
        data.class_names,
        data.labeled_counts,
        data.unlabeled_counts,
        identity.evaluated,
    )


_ERASE_LINE = "\r\x1b[K"  # for terminals


def train(run: Run) -> Run:
    """Trains to the last step, with evaluation and checkpoint every `--evaluate_every` steps.

    Returns:
        The run in its last generation.

    Raises:
        Stopped: If it was told to stop; a checkpoint has been saved.
        NonFiniteError: If a loss or a variable becomes nan or infinite.
        DataError: If more image files turn out to be unreadable than may be left out.
    """
    is_terminal = sys.stdout.isatty()
    time_left = TimeLeft(run.settings.steps, _ERASE_LINE if is_terminal else "")
    _train_generation(run, time_left)
    while run.generation.last_step < run.settings.steps:
        begun = begin(
            run.settings, run.data, run.identity, run.checkpoints, run.strategy, run.last_step
        )
        run = begun._replace(copies=run.copies)
        _train_generation(run, time_left)
    return run


def _open_set(run: Run) -> list[FitOpenSet]:
    score = run.learner.open_set
    if score is None:
        return []
    detector = Detector(run.learner, score, run.data, run.settings.evaluation_batch_size)
    return [FitOpenSet(detector, run.settings.evaluate_every)]


def _train_generation(run: Run, time_left: TimeLeft) -> None:
    parts = {"test": run.data.test, "validation": run.data.validation}
    evaluated = {name: images for name, images in parts.items() if images is not None}
    predict = Prediction(run.learner, run.settings.evaluation_batch_size)
    is_chief = strategies.is_chief(run.strategy)
    settings = run.settings
    save = SaveCheckpoint(
        run.checkpoints,
        settings.checkpoint_every,
        is_chief,
        run.results.best_step if settings.best else lambda step: None,
    )
    directory = run.model_dir if is_chief else None
    callbacks: list[keras.callbacks.Callback] = [
        ContinueMetrics(),
        StopAtNonFiniteLoss(),
        *([time_left, ShortProgress()] if is_chief else []),
        *_open_set(run),  # an evaluation estimates shares without the images of no class
        Evaluation(
            evaluated,
            predict,
            run.results,
            directory,
            settings.stop_after,
            distribution_estimate.of_run(settings, run.data, predict),
        ),
        save,
    ]
    verbose = 0
    if is_chief:
        verbose = 1 if sys.stdout.isatty() else 2  # a bar, or one line per epoch in a file
    with reading(run.data), run.checkpoints.written():
        for stage in run.stages:
            run.learner.fit(
                stage.batches,
                steps_per_epoch=stage.steps_per_epoch,
                initial_epoch=stage.initial_epoch,
                epochs=stage.epochs,
                callbacks=PacedCallbacks(
                    callbacks,
                    run.learner,
                    stage.steps_per_epoch,
                    stage.epochs,
                    verbose,
                    run.last_step,
                    save.after_step,
                ),
                shuffle=False,  # the batches are shuffled already
                verbose=verbose,
            )
            if is_over(settings, run.results):
                break
    strategies.wait_for_chief(run.strategy)  # they read its checkpoints
