"""Predictions for labeled pictures by heads that have not learned their labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from daso_tf.pseudo_labels.discriminant import folds
from daso_tf.step.class_shares import Predictions

FOLDS = 5
REFITS = 12  # heads fitted to resamples of the labeled pictures
MOST_REFITTED = 500  # labeled pictures; more take minutes
_LEAST = 1e-6  # probability of a class that a head has not seen


class OutOfFold(NamedTuple):
    """Predictions for labeled pictures, each by a head that was fitted to the other folds.

    Attributes:
        probabilities: float64 `(N, K)`; each row sums to 1.
        fold: int `(N,)`, in 0..FOLDS-1.
    """

    probabilities: np.ndarray
    fold: np.ndarray


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0
) -> OutOfFold:
    """Predicts each picture with a linear head that is fitted to the other four fifths.

    The pictures of a class are spread over all folds.

    Args:
        features: float `(N, D)`.
        labels: int `(N,)`, classes in 0..K-1.
        num_classes: K.
        seed: Determines the folds.

    Returns:
        The `OutOfFold` predictions. A class of one picture is never predicted for that picture.

    Example:

    >>> features = np.repeat(np.eye(2), 10, axis=0)
    >>> found = out_of_fold(features, np.repeat([0, 1], 10), num_classes=2)
    >>> found.probabilities.argmax(axis=1).tolist() == [0] * 10 + [1] * 10
    True
    """
    fold = folds(labels, FOLDS, seed)
    return OutOfFold(_by_folds(features, labels, fold, num_classes), fold)


def refitted(
    features: np.ndarray,
    labels: np.ndarray,
    unlabeled: np.ndarray,
    num_classes: int,
    count: int = REFITS,
    seed: int = 0,
) -> Iterator[Predictions]:
    """Yields what heads predict that are fitted to resamples of few labeled pictures.

    Pictures are drawn within their class; the copies of one are in the same fold. Of more than
    `MOST_REFITTED` pictures it yields nothing: there, which ones are labeled matters little.

    Args:
        features: float `(L, D)`, of the labeled pictures.
        labels: int `(L,)`, their classes in 0..K-1.
        unlabeled: float `(N, D)`, features of unlabeled pictures.
        num_classes: K.
        count: Number of resamples.
        seed: Determines the draws and the folds.
    """
    if len(labels) > MOST_REFITTED:
        return
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    for number in range(count):
        drawn = np.concatenate([rng.choice(of, len(of)) for of in members])
        different, copies = np.unique(drawn, return_inverse=True)
        fold = folds(labels[different], FOLDS, number)[copies]
        found = _by_folds(features[drawn], labels[drawn], fold, num_classes)
        head = Head(features[drawn], labels[drawn], num_classes)
        yield Predictions(np.log(found), labels[drawn], np.log(head(unlabeled)))


def _by_folds(
    features: np.ndarray, labels: np.ndarray, fold: np.ndarray, num_classes: int
) -> np.ndarray:
    probabilities = np.full((len(labels), num_classes), np.nan)
    for number in np.unique(fold):
        inside = fold == number
        predict = Head(features[~inside], labels[~inside], num_classes)
        probabilities[inside] = predict(features[inside])
    return probabilities


class Head:
    """Logistic regression on standardized features.

    Args:
        features: float `(N, D)`.
        labels: int `(N,)`, classes in 0..K-1.
        num_classes: K.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int):
        self.num_classes = num_classes
        self.classes = np.unique(labels)
        if len(self.classes) < 2:  # all pictures are of one class, or there are none
            return
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(features, labels)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Returns probabilities, float64 `(N, K)`; a class without pictures has almost none.

        Args:
            features: float `(N, D)`.
        """
        found = np.full((len(features), self.num_classes), _LEAST)
        if len(self.classes) < 2:
            found[:, self.classes] = 1
        else:
            found[:, self.classes] = np.maximum(self._model.predict_proba(features), _LEAST)
        return found / found.sum(axis=1, keepdims=True)


def suspected(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns which class each picture seems to be of instead of its label.

    A picture seems to be of a class if its probability reaches the mean that the pictures with that
    label have. So a rare class, which is predicted with less confidence, has a lower bar. If there
    are several such classes, it is the most probable one.

    Args:
        labels: int `(N,)`, the given classes in 0..K-1.
        probabilities: float `(N, K)`, out-of-fold predictions.

    Returns:
        int64 `(N,)`; -1 where nothing speaks against the label, or where the class has no other
        picture to compare with.

    Example:

    >>> of_second = np.array([0.1, 0.8, 0.7, 0.9])
    >>> suspected(np.array([0, 0, 1, 1]), np.stack([1 - of_second, of_second], axis=1))
    array([-1,  1, -1, -1])

    Reference:
        Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
        Journal of Artificial Intelligence Research 70, 2021, section 3.1.
    """
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    bars = np.array(
        [probabilities[labels == k, k].mean() if counts[k] else np.inf for k in range(num_classes)]
    )
    reached = np.where(probabilities >= bars, probabilities, -1.0)
    seems = reached.argmax(axis=1)
    kept = (reached.max(axis=1) < 0) | (seems == labels) | (counts[labels] < 2)
    return np.where(kept, -1, seems)
