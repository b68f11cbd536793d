"""cRT: a new classifier on the features that a finished run has learnt."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.learners.supervised import Supervised
from daso_tf.step.outcome import StepOutcome


@keras.saving.register_keras_serializable(package="daso_tf")
class ClassifierRetraining(Supervised):
    """Classifier retraining: the encoder stays as it is, its classifier is learnt anew.

    An encoder that was trained as the classes come has good features; what leans to the frequent
    classes is its classifier. The new one learns from batches with as many images of every class:
    `daso_tf.data.training_batches(..., class_balanced=True)`.

    Args:
        encoder: A trained `keras.Model` from normalised float images `(batch, height, width, 3)`
            to features `(batch, D)`, such as the `ema_encoder` of another learner. It is frozen,
            its BatchNorm statistics too.
        num_classes: K, at least 2.
        **kwargs: As for `Supervised`.

    Raises:
        ValueError: If an argument is outside its range, or a pseudo-labeler is given.

    Example:

    >>> trained = daso_tf.Supervised(daso_tf.encoders.wide_resnet(10, 1, (16, 16, 3)), 10)
    >>> model = ClassifierRetraining(trained.ema_encoder, num_classes=10)
    >>> [tuple(weight.shape) for weight in model.trainable_weights]
    [(64, 10), (10,)]

    Reference:
        Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
        ICLR 2020, section 4.2, "Classifier Re-training".
    """

    class_balanced_batches = True

    def __init__(self, encoder: keras.Model, num_classes: int, **kwargs):
        encoder.trainable = False
        super().__init__(encoder, num_classes, **kwargs)

    def compute_losses(self, views: tf.Tensor, labels, positions=None) -> StepOutcome:
        """Computes the loss of one step; the features are those of inference."""
        features = self.features(views, training=False)
        logits = tf.cast(self.classifier(features), tf.float32)
        loss = self.supervised_loss(labels, logits, tf.convert_to_tensor(self.step))
        return StepOutcome({"supervised_loss": loss}, logits)
