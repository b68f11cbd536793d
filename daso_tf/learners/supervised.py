"""Supervised learning from the labeled images alone, the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import keras
import tensorflow as tf

from daso_tf.step.learner import NO_BALANCED_HEAD, NO_THRESHOLD, Learner
from daso_tf.step.outcome import StepOutcome


@keras.saving.register_keras_serializable(package="daso_tf")
class Supervised(Learner):
    """Supervised learning: weak views of the labeled images, and nothing else.

    It takes the same batches as the other learners and ignores the unlabeled images. There may be
    none: `daso_tf.data.training_batches(data, ..., **model.batch_arguments)` leaves them out.

    Args:
        ema_decay: Final decay of the moving average, in [0, 1). By default 0: the network itself
            makes the predictions, as in the published comparison.

    Raises:
        ValueError: If an argument is outside its range, or a pseudo-labeler is given.

    Example:

    >>> encoder = daso_tf.encoders.wide_resnet(10, 1)
    >>> model = Supervised(encoder, num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
    >>> labeled, unlabeled = np.zeros((4, 32, 32, 3), "uint8"), np.zeros((8, 32, 32, 3), "uint8")
    >>> logs = model.train_on_batch((labeled, unlabeled), np.zeros(4, "int32"), return_dict=True)
    >>> sorted(logs)
    ['gradient_norm', 'loss', 'supervised_loss']

    Reference:
        DASO, CVPR 2022, section 4.1, "Supervised".
    """

    labeled_alone: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "pseudo_labeler": "it learns from the labeled images alone",
            "threshold": NO_THRESHOLD,
            "balanced_head": NO_BALANCED_HEAD,
            "open_set": "it learns from the labeled images alone",
        }
    )

    def __init__(
        self, encoder: keras.Model, num_classes: int, *, ema_decay: float = 0.0, **kwargs: Any
    ):
        super().__init__(encoder, num_classes, ema_decay=ema_decay, **kwargs)

    def make_views(self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Makes weak views of the labeled images, as the encoder takes them."""
        return self.as_input(self.weak(labeled, seed=seed))

    def compute_losses(
        self, views: tf.Tensor, labels: tf.Tensor, positions: tf.Tensor | None = None
    ) -> StepOutcome:
        """Computes the loss of one step."""
        (labeled,) = self.forward(views)
        loss = self.supervised_loss(labels, labeled.logits, tf.convert_to_tensor(self.step))
        return StepOutcome({"supervised_loss": loss}, labeled.logits)
