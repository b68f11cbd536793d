"""The learner of a run: a new one, or that of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf

from daso_tf.data import SemiSupervisedData
from daso_tf.learners import Learner
from daso_tf.run.checkpoints import CheckpointError, Checkpoints
from daso_tf.run.generations import Generation, PseudoLabeledImages, alignment_temperature
from daso_tf.settings.build import build_encoder, build_learner
from daso_tf.settings.methods import SELF_TRAINING
from daso_tf.settings.settings import Settings


def generation_length(settings: Settings) -> int:
    """Returns the steps of a generation of self-training; those of the run without it."""
    self_training = settings.pseudo_labeler in SELF_TRAINING
    return settings.generation_steps if self_training else settings.steps


def new_learner(
    settings: Settings,
    strategy: tf.distribute.Strategy,
    data: SemiSupervisedData,
    trained_on: SemiSupervisedData,
    generation: Generation,
) -> Learner:
    """Makes the learner of a generation, with its initial weights."""
    keras.utils.set_random_seed(settings.seed + generation.number)  # of the initial weights
    with strategy.scope():
        return build_learner(
            settings,
            data,
            encoder=_restored_encoder(settings, data) if settings.from_model_dir else None,
            labeled_counts=trained_on.labeled_counts.tolist(),
            first_step=generation.first_step,
            generation_steps=generation.last_step - generation.first_step,
            alignment_temperature=alignment_temperature(
                generation.number, generation.count, settings.crest_temperature
            ),
        )


def restored(
    settings: Settings,
    data: SemiSupervisedData,
    checkpoints: Checkpoints,
    strategy: tf.distribute.Strategy,
    step: int,
) -> Learner:
    """Makes the learner of a checkpoint."""
    generation = Generation.at(max(step - 1, 0), generation_length(settings), settings.steps)
    images = PseudoLabeledImages(Path(settings.model_dir) / "generations", checkpoints.unlabeled)
    trained_on = images.added_to(data, generation)
    learner = new_learner(settings, strategy, data, trained_on, generation)
    checkpoints.restore(learner, step)
    return learner


def _restored_encoder(settings: Settings, data: SemiSupervisedData) -> keras.Model:
    """Returns the averaged encoder of another run."""
    encoder = build_encoder(settings, data)
    model_dir = Path(settings.from_model_dir)
    try:
        restored = Checkpoints(model_dir / "checkpoints").restore_encoder(encoder)
    except CheckpointError as error:
        raise ValueError(
            f"--from_model_dir={model_dir}: {error}. If they are whole, that run has another "
            "--encoder or --resolution."
        ) from error
    if not restored:
        raise ValueError(f"--from_model_dir={model_dir} has no checkpoint of a training run.")
    return encoder
