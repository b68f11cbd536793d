"""Interface of the scores that tell images of no class from those of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform.checks import checked_number

_NO_LIMIT = np.finfo(np.float32).max  # a checkpoint has no infinite numbers


class OpenSet(keras.layers.Layer):
    """Base class of the layers that score how much an image looks like none of the classes.

    A score is that of the plain image by the averaged network. An image whose score is above the
    limit belongs to no class. The limit is the quantile of the scores of held-out images of the
    classes above which the share `rejected` of them lies. It is a variable of this layer, like all
    that a score remembers, so every way of saving the model saves it. Until there is a limit, every
    image belongs to a class.

    Args:
        rejected: Share of the held-out images of the classes that lies above the limit, above 0
            and below 1.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `rejected` is outside its range.

    Attributes:
        refuses: What it cannot be combined with, by the name of a learner's argument, and why.
        learns_from: The parts of the data, "labeled" or "labeled" and "unlabeled", whose features
            `learn` needs before scores can be computed.
    """

    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"threshold": "its estimates are of all unlabeled images; only a fixed one has none"}
    )
    learns_from: ClassVar[tuple[str, ...]] = ()

    def __init__(self, rejected: float = 0.05, **kwargs: Any):
        # Scores are compared in float32 under every dtype policy.
        super().__init__(**{"dtype": "float32", **kwargs})
        self.rejected = checked_number("rejected", rejected, above=0, below=1)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the limit, above all scores.

        Args:
            input_shape: The shapes of the logits `(batch, K)` and of the features `(batch, D)`.
        """
        self.limit = self.add_weight(
            name="limit",
            shape=(),
            initializer=keras.initializers.Constant(float(_NO_LIMIT)),
            trainable=False,
        )
        self.built = True

    def call(self, logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Scores images. No gradient flows through the scores.

        Args:
            logits: float `(batch, K)` of the averaged network, without logit adjustment.
            features: float `(batch, D)` of the same images.

        Returns:
            float32 `(batch,)`, high where an image looks like none of the classes.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `call`.")

    def learn(
        self, features: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray | None = None
    ) -> None:
        """Receives features of the averaged network before a limit is set.

        Args:
            features: float `(N, D)` of the labeled images.
            labels: int `(N,)`, their classes in 0..K-1; each occurs.
            unlabeled: float `(M, D)` of unlabeled images, if it learns from these.
        """

    def set_limit(self, scores: np.ndarray) -> None:
        """Sets the limit.

        Args:
            scores: float `(N,)`, those of images of the classes that the network has not learned.
        """
        limit = np.quantile(np.nan_to_num(scores, nan=float(_NO_LIMIT)), 1 - self.rejected)
        self.limit.assign(np.float32(np.clip(limit, -_NO_LIMIT, _NO_LIMIT)))

    @property
    def has_limit(self) -> bool:
        """Whether the limit has been set."""
        return bool(np.array(tf.convert_to_tensor(self.limit)) < _NO_LIMIT)

    def is_unknown(self, scores: tf.Tensor) -> tf.Tensor:
        """Returns which images belong to no class.

        Args:
            scores: float `(batch,)`.

        Returns:
            bool `(batch,)`.
        """
        return scores > tf.convert_to_tensor(self.limit)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {**super().get_config(), "rejected": self.rejected}
