"""What is measured: per class, and over the steps of an epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_whole_number
from daso_tf.step.outcome import StepOutcome

__all__ = ["BalancedAccuracy", "ClassStatistics", "OneHotLabels"]

_COUNTS = ("true", "predicted", "correct", "assigned")
# The last words of the names of metrics that should rise and that should fall.
_RISING, _FALLING = ("accuracy", "recall", "precision", "mask_rate"), ("loss", "gradient_norm")


def direction(name: str) -> str | None:
    """Returns whether training should raise or lower a metric.

    Args:
        name: Its name in the logs of `fit`, such as `"val_balanced_accuracy"`.

    Returns:
        `"max"`, `"min"`, or None for a metric that this library does not have.

    Example:

    >>> direction("val_accuracy"), direction("consistency_loss"), direction("val_f1_score")
    ('max', 'min', None)
    """
    if name.endswith(_RISING):
        return "max"
    return "min" if name.endswith(_FALLING) else None


@keras.saving.register_keras_serializable(package="daso_tf")
class ClassStatistics(keras.metrics.Metric):
    """Recall and precision of every class, and their means over the classes.

    A label of -1 is unknown. Its prediction only counts in `assigned`.

    Args:
        num_classes: K, at least 2.
        name: Prefix of the two results.
        **kwargs: As for `keras.metrics.Metric`.

    Raises:
        ValueError: If `num_classes` is below 2.

    Example:

    >>> statistics = ClassStatistics(num_classes=2, name="final")
    >>> statistics.update_state(tf.constant([0, 0, 1, -1]), tf.constant([0, 1, 1, 1]))
    >>> statistics.per_class()["recall"].tolist(), statistics.per_class()["precision"].tolist()
    ([0.5, 1.0], [1.0, 0.5])
    """

    def __init__(self, num_classes: int, name: str = "class_statistics", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.num_classes = checked_whole_number("num_classes", num_classes, least=2)
        self.true, self.predicted, self.correct, self.assigned = (
            self.add_weight(name=kind, shape=(self.num_classes,), initializer="zeros")
            for kind in _COUNTS
        )

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Counts a batch.

        Args:
            y_true: int `(batch,)`, true classes, -1 where unknown.
            y_pred: int `(batch,)`, predicted classes, -1 for none.
            sample_weight: Unused; every image counts once.
        """
        y_true, y_pred = tf.cast(y_true, tf.int64), tf.cast(y_pred, tf.int64)
        predicted = tf.where(y_true >= 0, y_pred, -1)
        correct = tf.where(tf.equal(y_true, y_pred), y_true, -1)
        self.true.assign_add(self._counted(y_true))
        self.predicted.assign_add(self._counted(predicted))
        self.correct.assign_add(self._counted(correct))
        self.assigned.assign_add(self._counted(y_pred))

    def reset_state(self) -> None:
        """Sets all counts to 0."""
        for kind in _COUNTS:
            getattr(self, kind).assign(tf.zeros([self.num_classes]))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns mean recall (over the classes seen) and mean precision (over those predicted)."""
        return {
            f"{self.name}_recall": self._mean_ratio(self.true),
            f"{self.name}_precision": self._mean_ratio(self.predicted),
        }

    def per_class(self) -> dict[str, np.ndarray]:
        """Returns the counts and ratios of each class.

        Returns:
            `recall` and `precision`, float `(K,)` in [0, 1], nan where the denominator is 0;
            `true`, `predicted` and `correct`, numbers of images whose class is known; and
            `assigned`, the number of all images predicted as the class, float `(K,)`.
        """
        counts = {kind: np.asarray(tf.convert_to_tensor(getattr(self, kind))) for kind in _COUNTS}
        with np.errstate(invalid="ignore"):
            return {
                "recall": counts["correct"] / counts["true"],
                "precision": counts["correct"] / counts["predicted"],
                **counts,
            }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this metric."""
        return {**super().get_config(), "num_classes": self.num_classes}

    def _counted(self, classes: tf.Tensor) -> tf.Tensor:
        """Counts how often each class occurs; others, such as -1, do not count."""
        classes = tf.where(classes < self.num_classes, classes, -1)
        ones = tf.ones(tf.shape(classes))
        return tf.math.unsorted_segment_sum(ones, classes, self.num_classes)

    def _mean_ratio(self, denominators: tf.Variable) -> tf.Tensor:
        # Each replica of a distributed step has counted its own rows.
        counts = [tf.convert_to_tensor(count) for count in (self.correct, denominators)]
        correct, denominators = replicas.total(counts)
        ratios = tf.math.divide_no_nan(correct, denominators)
        there = tf.reduce_sum(tf.cast(denominators > 0, tf.float32))
        return tf.math.divide_no_nan(tf.reduce_sum(ratios), there)


@keras.saving.register_keras_serializable(package="daso_tf")
class BalancedAccuracy(ClassStatistics):
    """The mean recall of the classes: every class has the same weight.

    Args:
        num_classes: K, at least 2.
        name: Name of the metric.
        **kwargs: As for `keras.metrics.Metric`.

    Raises:
        ValueError: If `num_classes` is below 2.

    Example:

    >>> metric = BalancedAccuracy(num_classes=2)
    >>> metric.update_state(tf.constant([0, 0, 0, 1]), tf.constant([0, 0, 0, 0]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, num_classes: int, name: str = "balanced_accuracy", **kwargs: Any):
        super().__init__(num_classes, name=name, **kwargs)

    def result(self) -> tf.Tensor:
        """Returns the mean recall of the classes seen, in [0, 1]."""
        return self._mean_ratio(self.true)


@keras.saving.register_keras_serializable(package="daso_tf")
class OneHotLabels(keras.metrics.Metric):
    """Lets a metric for one-hot labels accept class numbers, which this library uses.

    Args:
        metric: The metric, such as `keras.metrics.F1Score` or one of TensorFlow Addons.
        name: By default the name of that metric.
        **kwargs: As for `keras.metrics.Metric`.

    Example:

    >>> metric = OneHotLabels(keras.metrics.F1Score(average="macro"))
    >>> metric.update_state(tf.constant([0, 1]), tf.constant([[0.9, 0.1], [0.2, 0.8]]))
    >>> round(float(metric.result()), 3)
    1.0
    """

    def __init__(self, metric: keras.metrics.Metric, name: str | None = None, **kwargs: Any):
        super().__init__(name=name or metric.name, **kwargs)
        self.metric = metric
        if hasattr(metric, "_direction"):  # callbacks of Keras 3 with mode="auto" read it
            self._direction = metric._direction

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Updates the metric.

        Args:
            y_true: int `(batch,)` or `(batch, 1)`, classes in 0..K-1.
            y_pred: float `(batch, K)`.
            sample_weight: float `(batch,)`, or None.
        """
        labels = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
        self.metric.update_state(tf.one_hot(labels, y_pred.shape[-1]), y_pred, sample_weight)

    def reset_state(self) -> None:
        """Resets the metric."""
        self.metric.reset_state()

    def result(self) -> tf.Tensor:
        """Returns the metric's result."""
        return self.metric.result()

    # The metric inside saves its own variables. Keras 2 would save them here, too, several times,
    # and could not load them.

    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Loads nothing."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this metric."""
        return {**super().get_config(), "metric": keras.saving.serialize_keras_object(self.metric)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OneHotLabels:
        """Creates the metric from the result of `get_config`."""
        config = dict(config, metric=keras.saving.deserialize_keras_object(config["metric"]))
        return cls(**config)


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
