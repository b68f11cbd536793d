"""Images of no class in a run: which are rejected, and how well that works where it is known."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from sklearn.metrics import roc_auc_score

from daso_tf.data import ImageFiles, Rows, SemiSupervisedData
from daso_tf.learners import Learner
from daso_tf.open_set import OpenSet
from daso_tf.run.prediction import Prediction
from daso_tf.settings import methods
from daso_tf.settings.settings import Settings

_SAMPLE = 5000  # unlabeled images from which a score learns


def check_open_set(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuses `--open_set` without validation images.

    Args:
        settings: Those of the run.
        data: Its data.

    Raises:
        ValueError: If there are none.
    """
    if settings.open_set and data.validation is None:
        raise ValueError(
            "--open_set needs validation images, which the network has not learned: their scores "
            "show how unknown is too unknown. Set some aside with --validation_size, or use data "
            "that has them."
        )


def score_of(settings: Settings, data: SemiSupervisedData, learner: Learner) -> OpenSet:
    """Returns the score of images of no class: that of the learner, or a new one without limit.

    Args:
        settings: Those of the run; `--open_set_score` names the new one.
        data: Its data.
        learner: What answers.
    """
    if learner.open_set is not None:
        return learner.open_set
    context = methods.Context(settings, data, data.labeled_counts.tolist(), 1.0, settings.steps)
    with learner.distribute_strategy.scope():
        score = methods.open_set_of(context)
        score.build([(None, learner.num_classes), (None, learner.num_features)])
    return score


class Detector:
    """Finds images of no class, on every device of a learner.

    Args:
        learner: What answers.
        score: Scores its answers.
        data: The data of the run.
        batch_size: Images per batch.
    """

    def __init__(self, learner: Learner, score: OpenSet, data: SemiSupervisedData, batch_size: int):
        self.score = score
        self.data = data

        def scored(images: Any) -> Any:
            outputs = learner.ema_outputs(images)
            return score(outputs.logits, outputs.features)

        self.scores = Prediction(learner, batch_size, scored)
        self._features = Prediction(
            learner, batch_size, lambda images: learner.ema_outputs(images).features
        )

    def fit(self) -> None:
        """Lets the score learn from training images, and sets its limit by validation images."""
        labeled = self.data.labeled
        if self.score.learns_from:
            features, unlabeled, read = self._features(labeled), None, _read(labeled)
            if "unlabeled" in self.score.learns_from:
                sample = _sample(self.data.unlabeled) if len(self.data.unlabeled) else labeled
                unlabeled = self._features(sample)[_read(sample)]
            self.score.learn(features[read], labeled.labels[read], unlabeled)
        if self.data.validation is not None:
            self.score.set_limit(self.scores(self.data.validation))

    def measured(self) -> dict[str, Any] | None:
        """Returns how well test images are told from images of no class.

        Returns:
            `score`, its name on the command line; `images`, the number of images of no class;
            `auroc`, the area under the ROC curve in [0, 1]; and `rejected_test` and
            `rejected_unknown`, the shares above the limit, None without a limit. None where no
            images of no class are known.
        """
        known, unknown = self.data.test, self.data.unknown
        if known is None or unknown is None:
            return None
        scores = [np.nan_to_num(self.scores(images)) for images in (known, unknown)]
        rejected = [
            float(np.mean(self.score.is_unknown(of_part))) if self.score.has_limit else None
            for of_part in scores
        ]
        is_unknown = np.repeat([False, True], [len(known), len(unknown)])
        return {
            "score": next(n for n, e in methods.OPEN_SETS.items() if e.make is type(self.score)),
            "images": len(unknown),
            "auroc": float(roc_auc_score(is_unknown, np.concatenate(scores))),
            "rejected_test": rejected[0],
            "rejected_unknown": rejected[1],
        }


def detector_of(settings: Settings, data: SemiSupervisedData, learner: Learner) -> Detector:
    """Returns what finds images of no class by a learner as it is, with the score of `score_of`.

    The open set of a run is fitted at every evaluation (`FitOpenSet`), and the checkpoints have it.
    It is fitted here only between two of them; a new score always is.

    Args:
        settings: Those of the run.
        data: Its data.
        learner: What answers.
    """
    score = score_of(settings, data, learner)
    detector = Detector(learner, score, data, settings.evaluation_batch_size)
    if not (score.has_limit and _is_fitted_at(int(learner.step.numpy()), settings.evaluate_every)):
        detector.fit()
    return detector


class FitOpenSet(keras.callbacks.Callback):
    """Fits the open set of a learner at every evaluation; comes before `Evaluation`.

    Only steps count that are a multiple of `every`: a run that continues beyond its last step is
    then the same as one that did not stop there.

    Args:
        detector: That of the learner.
        every: Steps between evaluations.
    """

    def __init__(self, detector: Detector, every: int):
        super().__init__()
        self.detector = detector
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        """Fits."""
        if _is_fitted_at(int(self.model.step.numpy()), self.every):
            self.detector.fit()


def line(measured: dict[str, Any]) -> str:
    """Returns what `Detector.measured` found in a line for people."""
    text = (
        f"{measured['images']:,} images of no class: AUROC {measured['auroc']:.3f} "
        f"({measured['score']})"
    )
    if measured["rejected_test"] is None:
        return text
    return (
        f"{text}; taken for unknown: {100 * measured['rejected_unknown']:.1f} % of them and "
        f"{100 * measured['rejected_test']:.1f} % of the test images"
    )


def _is_fitted_at(step: int, every: int) -> bool:
    return step % every == 0


def _sample(images: Any) -> Any:
    """Returns as many images as are needed, evenly spread."""
    if len(images) <= _SAMPLE:
        return images
    return images.subset(np.linspace(0, len(images) - 1, _SAMPLE).astype(int))


def _read(images: Any) -> np.ndarray:
    """Returns the positions of the images that could be read."""
    pixels = images.pictures if isinstance(images, Rows) else images
    left_out = pixels.left_out if isinstance(pixels, ImageFiles) else ()
    return np.setdiff1d(np.arange(len(images)), list(left_out)).astype(int)
