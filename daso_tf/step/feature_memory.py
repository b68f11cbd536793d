"""The latest features of each class, from which a balanced head draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from daso_tf.pseudo_labels.prototypes import PrototypeClassifier

_MOST = 256  # features of a class


class FeatureMemory(PrototypeClassifier):
    """Remembers as many features of each class as it has labeled images, but at most 256.

    Args:
        labeled_counts: Labeled images of each class, K numbers, each at least 1.
    """

    def __init__(self, labeled_counts: Sequence[int], **kwargs: Any):
        super().__init__([min(count, _MOST) for count in labeled_counts], **kwargs)

    def counts(self) -> tf.Tensor:
        """Returns how many features of each class are remembered, int64 `(K,)`."""
        return tf.minimum(tf.convert_to_tensor(self.pushed), tf.constant(self.queue_size, tf.int64))

    def keep_if(self, kept: tf.Tensor) -> None:
        """Forgets everything unless `kept`, a bool scalar, is true."""
        self.pushed.assign(tf.where(kept, tf.convert_to_tensor(self.pushed), 0))

    def load_own_variables(self, store: Any) -> None:
        """Loads the memory of a saved learner. Those of version 0.1 have none; it is then empty."""
        if store.keys():
            super().load_own_variables(store)
        else:
            self.set_weights([tf.zeros(weight.shape, weight.dtype) for weight in self.weights])
