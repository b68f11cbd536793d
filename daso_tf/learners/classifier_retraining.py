"""cRT: a new classifier on the features of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import keras
import tensorflow as tf

from daso_tf.encoders.checks import check_encoder
from daso_tf.learners.supervised import Supervised
from daso_tf.step.outcome import StepOutcome


@keras.saving.register_keras_serializable(package="daso_tf")
class ClassifierRetraining(Supervised):
    """Classifier retraining (cRT): the encoder is frozen, and a new classifier is trained.

    An encoder that was trained on imbalanced batches has good features; it is its classifier that
    prefers the frequent classes. The new classifier learns from class-balanced batches:
    `daso_tf.data.training_batches(..., class_balanced=True)`.

    Args:
        encoder: A trained `keras.Model` from normalized float images `(batch, height, width, 3)`
            to features `(batch, D)`, such as the `ema_encoder` of another learner. It is frozen,
            its BatchNorm statistics included.
        ema_decay: Final decay of the moving average, in [0, 1).

    Raises:
        ValueError: If an argument is outside its range, or a pseudo-labeler is given.

    Example:

    >>> statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    >>> encoder = daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3))
    >>> trained = daso_tf.Supervised(encoder, num_classes=10, **statistics)
    >>> model = ClassifierRetraining(trained.ema_encoder, num_classes=10, **statistics)
    >>> [tuple(weight.shape) for weight in model.trainable_weights]
    [(64, 10), (10,)]

    Reference:
        Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
        ICLR 2020, section 4.2, "Classifier Re-training".
    """

    asks_for: ClassVar[frozenset[str]] = frozenset({"class_balanced_batches"})
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **Supervised.refuses,
            "balance": "its batches contain equally many images of every class already",
        }
    )

    def __init__(
        self, encoder: keras.Model, num_classes: int, *, ema_decay: float = 0.999, **kwargs: Any
    ):
        check_encoder(encoder)
        encoder.trainable = False
        super().__init__(encoder, num_classes, ema_decay=ema_decay, **kwargs)

    def compute_losses(
        self, views: tf.Tensor, labels: tf.Tensor, positions: tf.Tensor | None = None
    ) -> StepOutcome:
        """Computes the loss of one step; the encoder is in inference mode."""
        features = self.network.features(views, training=False)
        logits = tf.cast(self.classifier(features), tf.float32)
        loss = self.supervised_loss(labels, logits, tf.convert_to_tensor(self.step))
        return StepOutcome({"supervised_loss": loss}, logits)
