"""What every balanced head is: a second classifier, of all classes alike, beside the learner's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import tensorflow as tf

from daso_tf.platform.checks import checked_counts


class Features(NamedTuple):
    """What the trained encoder makes of the views of a step; they carry the gradient.

    Attributes:
        labeled: float `(batch, D)`, of the weak views of the labeled images.
        weak: float `(mu * batch, D)`, of the weak views of the unlabeled ones.
        strong: float `(mu * batch, D)`, of the strong views of the same unlabeled ones.
    """

    labeled: tf.Tensor
    weak: tf.Tensor
    strong: tf.Tensor


class BalancedHead:
    """How a linear classifier on the learner's features is trained so that it is balanced.

    A learner takes one, gives it the classifier, which is the learner's own, and adds its `loss`.
    That classifier answers in the place of the first one.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.

    Raises:
        ValueError: If they are none.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})
    loss_names: ClassVar[tuple[str, ...]] = ("balanced_head_loss",)

    def __init__(self, labeled_counts: Sequence[int]):
        self.labeled_counts = checked_counts(labeled_counts)

    def loss(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        pseudo_labels_of: Callable[[tf.Tensor], NamedTuple],
        features: Features,
        labels: tf.Tensor,
        draws: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Computes what the balanced classifier learns.

        Args:
            classifier: The balanced classifier, from features to logits `(batch, K)`.
            pseudo_labels_of: From the probabilities of the weak views, float `(mu * batch, K)`, to
                their `PseudoLabels`.
            features: Those of the step's views.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            draws: float `(batch + mu * batch,)`, uniform in [0, 1), one an image.
            step: int scalar, the number of steps done before this one.

        Returns:
            A scalar.
        """
        raise ValueError(f"{type(self).__name__} does not say what it learns: `loss`.")

    def teaching_logits(
        self,
        classifier: Callable[[tf.Tensor], tf.Tensor],
        features: tf.Tensor,
        logits: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the logits that the learner's pseudo-labels are made of.

        Args:
            classifier: The balanced classifier, from features to logits `(batch, K)`.
            features: float `(mu * batch, D)` of the weak views of the unlabeled images.
            logits: float `(mu * batch, K)`, what the learner's own classifier makes of them.
            step: int scalar, the number of steps done before this one.

        Returns:
            float `(mu * batch, K)`; by default the learner's own.
        """
        return logits

    def get_config(self) -> dict:
        """Returns the arguments that make this component again."""
        return {"labeled_counts": self.labeled_counts}

    @classmethod
    def from_config(cls, config: dict) -> BalancedHead:
        """Makes the component from what `get_config` gave back."""
        return cls(**config)
