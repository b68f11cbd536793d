"""Learning from the labeled images alone: what every other learner has to beat."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.step.learner import Learner
from daso_tf.step.outcome import StepOutcome


@keras.saving.register_keras_serializable(package="daso_tf")
class Supervised(Learner):
    """Supervised learning: the labeled images, weakly augmented, and nothing else.

    It takes the same batches as the other learners and passes over the unlabeled images.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        **kwargs: As for `Learner`: `supervised_loss`, `weak`, `weight_decay`, `ema_decay`,
            `resolution`, `mean`, `std`, `class_names`, `seed`, `name`.

    Raises:
        ValueError: If an argument is outside its range, or a pseudo-labeler is given.

    Example:

    >>> model = Supervised(daso_tf.encoders.wide_resnet(10, 1), num_classes=10)
    >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['gradient_norm', 'loss', 'supervised_loss']

    Reference:
        DASO, CVPR 2022, section 4.1, "Supervised".
    """

    refuses_pseudo_labeler = "it learns from the labeled images alone"

    def __init__(self, encoder: keras.Model, num_classes: int, **kwargs):
        self._refuse_pseudo_labeler(kwargs)
        super().__init__(encoder, num_classes, loss_names=("supervised_loss",), **kwargs)

    def make_views(self, labeled, unlabeled, seed) -> tf.Tensor:
        """Makes weak views of the labeled images, as the encoder takes them."""
        return self.as_input(self.weak(labeled, seed=seed))

    def compute_losses(self, views: tf.Tensor, labels, positions=None) -> StepOutcome:
        """Computes the loss of one step."""
        (labeled,) = self.forward(views)
        loss = self.supervised_loss(labels, labeled.logits, tf.convert_to_tensor(self.step))
        return StepOutcome({"supervised_loss": loss}, labeled.logits)
