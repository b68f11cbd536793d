"""The class distribution of the unlabeled images, estimated again at every evaluation."""

from __future__ import annotations

import numpy as np

from daso_tf.data import ImageFiles, Images, Rows, SemiSupervisedData
from daso_tf.data.unlabeled_distribution import ESTIMATE
from daso_tf.learners import Learner
from daso_tf.run.prediction import Prediction
from daso_tf.settings import methods
from daso_tf.settings.settings import Settings
from daso_tf.step.class_shares import confirmed_shares

SAMPLE = 5000  # unlabeled images that are predicted


class DistributionEstimate:
    """Estimates the class distribution during training and gives it to the learner.

    Images that the learner's open set rejects belong to no class, so they are left out. What the
    learner does with the estimate is a variable, so a checkpoint contains it.

    Args:
        predict: Predicts sets of images.
        data: The data of the run, with validation and unlabeled images.
        first_step: The first step after which it estimates.
    """

    def __init__(self, predict: Prediction, data: SemiSupervisedData, first_step: int):
        assert data.validation is not None  # see `check_estimates`
        self.predict = predict
        self.validation = data.validation
        evenly = np.arange(0, len(data.unlabeled), -(-len(data.unlabeled) // SAMPLE))
        self.unlabeled = data.unlabeled.subset(evenly)
        self.first_step = first_step
        self._open_set = predict.model.open_set
        if self._open_set is not None:
            score = predict.model.unknown_scores
            self._scores = Prediction(predict.model, predict.batch_size, score)

    def __call__(self, learner: Learner) -> list[float] | None:
        """Estimates it, from `first_step` on, where `daso_tf.step.class_shares` confirms it.

        Args:
            learner: In the state after a step. All workers must call this.

        Returns:
            The shares that the learner has got; None where it keeps what it has.
        """
        if int(learner.step.numpy()) < self.first_step:
            return None
        of_class, belongs = self._known(self.validation), self._known(self.unlabeled)
        if not (of_class.any() and belongs.any()):
            return None
        found = confirmed_shares(
            self.predict(self.validation)[of_class],
            self.validation.labels[of_class],
            self.predict(self.unlabeled)[belongs],
        )
        if found is None:
            return None
        learner.set_class_distribution(found)
        return found.tolist()

    def _known(self, images: Images | ImageFiles | Rows) -> np.ndarray:
        """Returns which images the open set does not reject, bool `(N,)`."""
        if self._open_set is None:
            return np.ones(len(images), bool)
        return ~self._open_set.is_unknown(self._scores(images)).numpy()


def check_estimates(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuses to estimate a class distribution without the images that it needs.

    Args:
        settings: Those of the run.
        data: Its data.

    Raises:
        ValueError: If there are no validation images or no unlabeled images.
    """
    if not methods.estimates(settings):
        return
    by_flag = settings.unlabeled_distribution == ESTIMATE
    flag = methods.UNLABELED_DISTRIBUTION if by_flag else methods.DISTRIBUTION_TEMPERATURE
    asked = f"--{flag.name}={settings[flag.name]}"
    if data.validation is None:
        raise ValueError(
            f"{asked} needs validation images, which the network has not learned: set some aside "
            "with --validation_size, or use data that has them."
        )
    if not len(data.unlabeled):
        raise ValueError(f"{asked} needs unlabeled images, and there are none. Leave it out.")


def of_run(
    settings: Settings, data: SemiSupervisedData, predict: Prediction
) -> DistributionEstimate | None:
    """Returns what estimates the class distribution during a run; None where nothing asks for it.

    Args:
        settings: Those of the run, completed.
        data: Its data.
        predict: Predicts with the learner of the run.
    """
    if not methods.estimates(settings):
        return None
    return DistributionEstimate(predict, data, round(settings.estimate_start * settings.steps))
