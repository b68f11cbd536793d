"""From the settings to a compiled learner."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from daso_tf import encoders
from daso_tf.data import BankedData, SemiSupervisedData
from daso_tf.data.unlabeled_distribution import ESTIMATE
from daso_tf.learners import Learner
from daso_tf.settings import compilation, limits, methods, optimizers
from daso_tf.settings.settings import Settings
from daso_tf.step.probe import begin_as_probe
from daso_tf.step.stored_views import feature_statistics


def build_learner(
    settings: Settings,
    data: SemiSupervisedData,
    *,
    encoder: keras.Model | None = None,
    labeled_counts: Sequence[int] | None = None,
    first_step: int = 0,
    alignment_temperature: float = 1.0,
    generation_steps: int | None = None,
    bank: BankedData | None = None,
) -> Learner:
    """Makes the learner that the settings describe, compiled and ready for `fit`.

    Args:
        settings: Those of a training run, completed (`daso_tf.settings.flags.complete`).
        data: What it will be trained on.
        encoder: The encoder to use; by default a new one (`build_encoder`).
        labeled_counts: Labeled images per class; by default those of `data`. Later generations of
            self-training have more.
        first_step: Number of steps that earlier generations have done.
        alignment_temperature: Temperature of CReST+ in this generation, in [0, 1].
        generation_steps: Steps of this generation; by default those of the run.
        bank: The feature bank from which a teacher labels the images of `data`; by default `data`.

    Returns:
        A compiled learner.
    """
    counts = data.labeled_counts.tolist() if labeled_counts is None else list(labeled_counts)
    encoder = build_encoder(settings, data) if encoder is None else encoder
    mean, std = encoders.normalization_of(encoder) or (data.mean, data.std)
    limits.check_memory(settings, data.num_classes, encoder.output_shape[-1])
    warmup_steps, drops = methods.published_schedule(settings.learner, settings.steps)
    if settings.warmup_steps is not None:
        warmup_steps = settings.warmup_steps
    if settings.learning_rate_drops is not None:
        drops = tuple(map(int, settings.learning_rate_drops))
    rate = optimizers.learning_rate(
        settings.learning_rate,
        warmup_steps,
        drops,
        settings.learning_rate_drop,
        settings.cosine,
        settings.steps,
    )
    optimizer, weight_decay = optimizers.build(
        settings.optimizer, rate, settings.momentum, settings.weight_decay
    )
    learner = methods.build_learner(
        methods.Context(
            settings, data, counts, alignment_temperature, generation_steps or settings.steps, bank
        ),
        encoder=encoder,
        num_classes=data.num_classes,
        resolution=settings.resolution,
        mean=mean,
        std=std,
        weight_decay=weight_decay,
        decayed=settings.decayed,
        ema_decay=settings.ema_decay,
        ema_warmup=settings.ema_warmup,
        average_statistics=settings.average_statistics,
        test_logit_adjustment=settings.test_logit_adjustment,
        # Logit adjustment at test time is for the labeled images of the data, in every generation.
        labeled_counts=data.labeled_counts.tolist(),
        first_step=first_step,
        estimated_prior=settings.unlabeled_distribution == ESTIMATE,
        microbatches=settings.microbatches,
        frozen_encoder=data.encoder if isinstance(data, BankedData) else None,
        class_names=data.class_names,
        seed=settings.seed,
    )
    learner.compile(
        optimizer=optimizer,
        jit_compile=_jit_compile(settings, learner),
        steps_per_execution=settings.steps_per_execution,
    )
    if settings.classifier_weights == "probe":
        begin_as_probe(learner, data)
    return learner


def build_encoder(settings: Settings, data: SemiSupervisedData) -> keras.Model:
    """Makes the encoder that is trained, with its initial weights.

    It takes images, or, where data is a feature bank, the features of the frozen encoder.
    """
    if isinstance(data, BankedData):
        return encoders.adapter(
            settings.adapter,
            feature_statistics(data),
            settings.adapter_units,
            settings.adapter_dropout,
        )
    return build_image_encoder(settings, data)


def build_image_encoder(settings: Settings, data: SemiSupervisedData) -> keras.Model:
    """Makes the encoder of images that the settings describe."""
    mixed = settings.mixed_precision != "none"
    return encoders.build(
        settings.encoder,
        settings.resolution,
        data.mean,
        data.std,
        weights=settings.encoder_weights,
        dtype=f"mixed_{settings.mixed_precision}" if mixed else None,
        synchronized_batch_norm=settings.synchronized_batch_norm,
        batch_norm_momentum=settings.batch_norm_momentum,
    )


def _jit_compile(settings: Settings, learner: Learner) -> bool | str:
    """Returns what XLA compiles."""
    if settings.jit_compile != "auto":
        return compilation.BY_FLAG[settings.jit_compile]
    labeler = learner.pseudo_labeler
    whole = labeler is None or "xla" not in labeler.refuses
    several = learner.distribute_strategy.num_replicas_in_sync > 1
    whole &= not (several and settings.synchronized_batch_norm)
    return compilation.best(learner.encoder, images_of_run(settings), whole)


def images_of_run(settings: Settings) -> int:
    """Returns the number of views that pass the encoder in training, forward and backward."""
    return settings.steps * settings.batch_size * (1 + 2 * settings.unlabeled_ratio)
