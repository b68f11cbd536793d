"""What networks predict for labeled images that they have not learned, on a feature bank."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tqdm

from daso_tf.data import BankedData
from daso_tf.pseudo_labels.discriminant import folds
from daso_tf.run.prediction import Prediction
from daso_tf.run.twin import trained
from daso_tf.settings.settings import Settings

FOLDS = 5


def left_out(settings: Sequence[Settings], data: BankedData) -> tuple[list[np.ndarray], np.ndarray]:
    """Trains on four fifths of the labeled images, five times, and predicts the last fifth.

    The images of a class are spread over all fifths. Its only image is never left out, and a fifth
    is not left out if the others are less than a batch.

    Args:
        settings: Those of each network that is trained, completed.
        data: A feature bank.

    Returns:
        The probabilities by each of them, float32 `(M, K)`, and the places of these images among
        the labeled ones, int64 `(M,)`.
    """
    labels = data.labeled.labels
    fold = folds(labels, FOLDS, settings[0].seed)
    places: list[np.ndarray] = []
    predicted: list[list[np.ndarray]] = [[] for _ in settings]
    steps = FOLDS * len(settings)
    with tqdm.tqdm(desc="Training on parts", total=steps, disable=None, leave=False) as bar:
        for number in range(FOLDS):
            kept = fold != number
            absent = np.setdiff1d(labels, labels[kept])
            kept |= np.isin(labels, absent)  # every class needs a labeled image
            if kept.all() or kept.sum() < settings[0].batch_size:
                bar.update(len(settings))
                continue
            part = dataclasses.replace(data, labeled=data.labeled.subset(np.flatnonzero(kept)))
            places.append(np.flatnonzero(~kept))
            held_out = data.labeled.subset(places[-1])
            for of, found in zip(settings, predicted, strict=True):
                found.append(Prediction(trained(of, part), of.evaluation_batch_size)(held_out))
                bar.update()
    if not places:
        nothing = np.zeros((0, data.num_classes), np.float32)
        return [nothing for _ in settings], np.zeros(0, np.int64)
    return [np.concatenate(found) for found in predicted], np.concatenate(places)
