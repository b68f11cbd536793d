"""What the progress bar and the records of a run say about training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from daso_tf.step.metrics import ClassStatistics
from daso_tf.step.outcome import StepOutcome

# Kinds of pseudo-labels, and the names of their metrics.
_KINDS = (
    ("linear", "linear_pseudo_label"),
    ("semantic", "semantic_pseudo_label"),
    ("final", "pseudo_label"),
)


class StepMetrics:
    """The means over an epoch of what the steps computed.

    Args:
        loss_names: Names of the loss terms.
        num_classes: K.
        has_pseudo_labels: Whether the steps make pseudo-labels.
    """

    def __init__(self, loss_names: Iterable[str], num_classes: int, has_pseudo_labels: bool):
        names = ("loss", *loss_names, "gradient_norm")
        self.means = {name: keras.metrics.Mean(name) for name in names}
        self.pseudo_labels: dict[str, ClassStatistics] = {}
        if has_pseudo_labels:
            self.means["mask_rate"] = keras.metrics.Mean("mask_rate")
            self.pseudo_labels = {k: ClassStatistics(num_classes, name) for k, name in _KINDS}

    @property
    def all(self) -> list[keras.metrics.Metric]:
        """All metrics."""
        return [*self.means.values(), *self.pseudo_labels.values()]

    def update(
        self, outcome: StepOutcome, unlabeled_labels: tf.Tensor | None, skips_steps: bool
    ) -> dict[str, Any]:
        """Adds a step.

        Args:
            outcome: What the step computed.
            unlabeled_labels: int `(mu * batch,)`, true classes of the unlabeled images, -1 where
                unknown; None where all are.
            skips_steps: Whether the optimizer skips steps whose gradient is not finite.

        Returns:
            The means so far, by name.
        """
        norm, weight = outcome.gradient_norm, None
        if skips_steps:  # the mean is over the steps that were not skipped
            weight = tf.cast(tf.math.is_finite(norm), tf.float32)
            norm = tf.where(weight > 0, norm, 0.0)
        self.means["gradient_norm"].update_state(norm, weight)
        total = tf.add_n(list(outcome.losses.values()))
        for name, value in {"loss": total, **outcome.losses}.items():
            self.means[name].update_state(value)
        if self.pseudo_labels:
            self.means["mask_rate"].update_state(
                1.0 if outcome.weights is None else outcome.weights
            )
        logs = {name: mean.result() for name, mean in self.means.items()}
        for kind, statistics in self.pseudo_labels.items():
            assigned = getattr(outcome.pseudo_labels, kind)
            known = unlabeled_labels is not None
            statistics.update_state(
                unlabeled_labels if known else -tf.ones_like(assigned), assigned
            )
        if self.pseudo_labels and unlabeled_labels is not None:
            logs.update(self.pseudo_labels["final"].result())
        return logs
