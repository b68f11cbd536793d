"""The feature bank of a run with a frozen encoder."""

from __future__ import annotations

import json
from pathlib import Path

import keras

from daso_tf.balance import CoSSL
from daso_tf.data import BankedData, SemiSupervisedData
from daso_tf.platform.files import write_atomically
from daso_tf.settings import methods
from daso_tf.settings.build import build_image_encoder
from daso_tf.settings.methods import Context
from daso_tf.settings.settings import Settings
from daso_tf.step.bank_files import check_cache
from daso_tf.step.feature_bank import default_cache_dir, feature_bank, weights_digest

RECORD = "frozen_encoder.json"  # in the folder of a run


def check(settings: Settings) -> None:
    """Refuses a cache folder that cannot be written, before data is read.

    Args:
        settings: Those of the run, completed.

    Raises:
        DataError: If it cannot be written.
    """
    if settings.freeze_encoder:
        check_cache(_cache_dir(settings))


def banked(settings: Settings, data: SemiSupervisedData) -> SemiSupervisedData:
    """Returns the data that a run trains on: with `--freeze_encoder`, rows of its feature bank.

    Args:
        settings: Those of the run, completed.
        data: Its images.

    Raises:
        DataError: If the bank is too large, or does not fit into its folder.
        ValueError: If the run was started with another encoder.
        OSError: If a file cannot be written.
    """
    if not settings.freeze_encoder:
        return data
    keras.utils.set_random_seed(settings.seed)  # of weights that are not pretrained
    encoder = build_image_encoder(settings, data)
    _check_same(settings, weights_digest(encoder))
    context = Context(settings, data, data.labeled_counts.tolist(), 1.0, settings.steps)
    asks = methods.LEARNERS[settings.learner].arguments
    head = methods.BALANCED_HEADS[settings.balanced_head]
    labeler = methods.PSEUDO_LABELERS[settings.pseudo_labeler].make
    needs_strong_labeled = "strong_labeled" in labeler.asks_for or (head and head.make is CoSSL)
    return feature_bank(
        data,
        encoder,
        weak=methods.weak_layer(context),
        strong=methods.strong_layer(context),
        weak_views=settings.bank_weak_views,
        strong_views=settings.bank_strong_views if "strong" in asks else 0,
        strong_labeled_views=settings.bank_strong_views if needs_strong_labeled else 0,
        resolution=settings.resolution,
        cache_dir=_cache_dir(settings),
        max_gigabytes=settings.max_bank_gigabytes,
        report=lambda line: print(line, flush=True),
    )


def write_record(settings: Settings, data: SemiSupervisedData) -> None:
    """Writes which encoder the features of a run are from, into its folder."""
    if isinstance(data, BankedData):
        record = {"encoder": settings.encoder, "weights": weights_digest(data.encoder)}
        text = json.dumps(record) + "\n"
        path = Path(settings.model_dir) / RECORD
        write_atomically(path, lambda file: file.write(text.encode()))


def _cache_dir(settings: Settings) -> Path:
    return Path(settings.cache_dir) if settings.cache_dir else default_cache_dir()


def _check_same(settings: Settings, weights: str) -> None:
    path = Path(settings.model_dir) / RECORD
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # a new run
    if before != weights:
        raise ValueError(
            f"{settings.model_dir} was trained on features of another encoder: the weights of "
            f"--encoder={settings.encoder} are not those that {path} names. Give the same "
            "--encoder and --encoder_weights, or another --model_dir to start a new run."
        )
