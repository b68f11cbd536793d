"""Interface of the thresholds, which decide how strongly each pseudo-label is taught."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from daso_tf.platform.checks import checked_number


class Selection(NamedTuple):
    """What a threshold selects from a batch.

    Attributes:
        weights: float32 `(mu * batch,)`, at least 0: how strongly each pseudo-label is taught.
            0 leaves it out, 1 teaches it fully.
        labels: int64 `(mu * batch,)`, the classes to teach instead of the pseudo-labels; None
            teaches the pseudo-labels.
        labeled_weights: float32 `(batch,)`, the weights of the labeled images in the supervised
            loss; None weighs each by 1.
    """

    weights: tf.Tensor
    labels: tf.Tensor | None = None
    labeled_weights: tf.Tensor | None = None


class Threshold(keras.layers.Layer):
    """Base class of the layers that select which pseudo-labels are taught, and how strongly.

    The learner calls its threshold once per step. What a threshold remembers from step to step is
    a variable of this layer, created in `build` from the shape of the targets `(batch, K)`. Every
    way of saving the model saves it.

    Args:
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Attributes:
        asks_for: What the learner must provide, by name: "positions" and "step", the arguments of
            `call`.
        refuses: What the threshold cannot be combined with, by such a name, and the reason.
        loss_names: Names of the losses that `auxiliary_losses` returns.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})
    loss_names: ClassVar[tuple[str, ...]] = ()

    # Confidences are remembered and compared in float32 under every dtype policy.
    def __init__(self, dtype: Any = "float32", **kwargs: Any):
        super().__init__(dtype=dtype, **kwargs)

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        step: tf.Tensor | None = None,
    ) -> Selection:
        """Selects from the pseudo-labels of a batch. No gradient flows through the result.

        Args:
            target: float `(mu * batch, K)`, the class distribution behind each pseudo-label; each
                row sums to 1.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images of the step.
            positions: int `(mu * batch,)`, the positions of the batch's unlabeled images among
                all unlabeled images; needed if the threshold asks for "positions".
            step: int scalar, the number of steps done before this one; needed if the threshold
                asks for "step". In self-training it counts from the start of a generation.

        Returns:
            A `Selection`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `call`.")

    def auxiliary_losses(self, logits: tf.Tensor, weights: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the losses that the threshold adds to the learner's.

        Args:
            logits: float `(mu * batch, K)` of the views that are taught; they carry the gradient.
            weights: float `(mu * batch,)`, the weights that this step's call returned.

        Returns:
            Weighted scalars by their names in the logs, which are `loss_names`.
        """
        return {}

    def image_memories(self) -> list[tf.Variable]:
        """Returns the variables with one entry per unlabeled image, in the order of the images.

        Where a run continues with other unlabeled images, the entry of each image moves with it. A
        new image has the initial value.
        """
        return []


@keras.saving.register_keras_serializable(package="daso_tf")
class FixedThreshold(Threshold):
    """FixMatch's threshold: the same confidence for all classes during the whole run.

    Args:
        confidence: The least confidence of a pseudo-label that is taught, in [0, 1].
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `confidence` is outside its range.

    Example:

    >>> threshold = FixedThreshold(0.9)
    >>> threshold(tf.constant([[0.95, 0.05], [0.8, 0.2]])).weights.numpy().tolist()
    [1.0, 0.0]

    Reference:
        Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
        Confidence", NeurIPS 2020, equation 4.
    """

    def __init__(self, confidence: float = 0.95, **kwargs: Any):
        super().__init__(**kwargs)
        self.confidence = checked_number("confidence", confidence, least=0, most=1)

    def call(
        self,
        target: tf.Tensor,
        labels: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        step: tf.Tensor | None = None,
    ) -> Selection:
        """Selects the confident pseudo-labels; see `Threshold.call`."""
        return Selection(tf.cast(tf.reduce_max(target, axis=-1) >= self.confidence, tf.float32))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {**super().get_config(), "confidence": self.confidence}
