"""A classifier that begins as what the labeled images say of the features at hand."""

from __future__ import annotations

import keras
import numpy as np

from daso_tf.balance import LogitAdjustedLoss
from daso_tf.data import SemiSupervisedData, evaluation_batches
from daso_tf.step.closed_forms import logistic_regression
from daso_tf.step.cosine_classifier import CosineClassifier
from daso_tf.step.learner import Learner

_BATCH = 1024


def begin_as_probe(learner: Learner, data: SemiSupervisedData) -> None:
    """Sets the classifier of a new learner, and its average, to a probe of the labeled images.

    The probe is fitted to the features that the encoder, as it is now, computes of the plain
    labeled images. For a linear classifier it is logistic regression; where the loss is
    logit-adjusted, so is the probe. The directions of a `CosineClassifier` become the mean
    directions of the classes.

    Args:
        learner: A learner that has not been trained.
        data: What it will be trained on, images or rows of a feature bank.

    Raises:
        ValueError: If the learner has another classifier.

    Example:

    >>> images = np.full((8, 8, 3, 6), np.arange(0, 240, 40), np.uint8).transpose(3, 0, 1, 2)
    >>> data = daso_tf.data.from_arrays(images[:4], [0, 0, 1, 1], images[4:])
    >>> encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    >>> learner = daso_tf.Supervised(encoder, 2, data=data)
    >>> begin_as_probe(learner, data)
    >>> learner.predict(images[:4], verbose=0).argmax(axis=1)
    array([0, 0, 1, 1])

    Reference:
        Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", ICLR 2022, section 3; Qi et al., "Low-Shot Learning with Imprinted
        Weights", CVPR 2018, section 3.
    """
    network = learner.network
    features = np.concatenate(
        [
            network.features(network.as_input(images), training=False).numpy()
            for images, _ in evaluation_batches(data.labeled, _BATCH)
        ]
    )
    labels, counts = data.labeled.labels, data.labeled_counts.tolist()
    if isinstance(learner.classifier, CosineClassifier):
        from sklearn.preprocessing import normalize

        directions = normalize(features)
        means = np.stack([directions[labels == k].mean(axis=0) for k in range(len(counts))])
        weights = [means.T, learner.classifier.log_scale.numpy()]
    elif isinstance(learner.classifier, keras.layers.Dense):
        loss = learner.supervised_loss
        tau = loss.tau if isinstance(loss, LogitAdjustedLoss) else 0.0
        weights = list(logistic_regression(features, labels, counts, tau))
    else:
        raise ValueError(
            f"The classifier is a {type(learner.classifier).__name__}; only a keras.layers.Dense "
            "and a CosineClassifier can begin as a probe."
        )
    for classifier in (learner.classifier, learner.ema_classifier):
        classifier.set_weights(weights)
