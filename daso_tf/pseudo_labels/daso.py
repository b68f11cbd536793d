"""DASO: blends linear and semantic pseudo-labels, with a weight for each class."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from daso_tf.data.unlabeled_distribution import total_variation
from daso_tf.platform import replicas
from daso_tf.platform.checks import checked_distribution, checked_number, checked_whole_number
from daso_tf.pseudo_labels.prototypes import PrototypeClassifier
from daso_tf.pseudo_labels.pseudo_labeler import PseudoLabeler, PseudoLabels

AUTO = "auto"
# T_dist of the paper on CIFAR-10 where labeled and unlabeled images have the same imbalance ratio,
# and where they have not (table 10).
EQUAL_IMBALANCE, OTHER_IMBALANCE = 1.5, 0.3
# Total variation up to which two class distributions are the same; it is 0.49 between the long tail
# of CIFAR-10-LT with a ratio of 100 and equally many images of each class.
SAME = 0.2


@keras.saving.register_keras_serializable(package="daso_tf")
class DASOPseudoLabeler(PseudoLabeler):
    """Distribution-aware blend of linear and semantic pseudo-labels, and semantic alignment.

    Linear pseudo-labels are biased towards head classes. Semantic pseudo-labels, by similarity to
    balanced prototypes, are biased towards tail classes. The more often a class is pseudo-labeled,
    the more weight its semantic pseudo-labels get. For an image with linear target p, linear
    pseudo-label k' and semantic target q, the final target is `(1 - v_k') p + v_k' q` with
    `v_k = m_k^(1/T_dist) / max_j m_j^(1/T_dist)`. Here m is the pseudo-label distribution in force:
    the histogram of the final pseudo-labels of the last full period.

    The alignment loss is the cross-entropy between the semantic predictions of weak and strong
    view.

    Args:
        queue_size: Q, labeled features kept for each class, at least 1.
        prototype_temperature: T_proto, divides the similarities to the prototypes, above 0.
        distribution_temperature: T_dist, above 0. The paper uses 1.5 on CIFAR-10 if labeled and
            unlabeled images have the same imbalance ratio, else 0.3. "auto" chooses one of these
            two by estimates during training (`set_class_distribution`), and is 1.5 until then.
        distribution_aware: Whether the weight v follows the pseudo-label distribution. If False,
            it is `blend_weight` for every class.
        blend_weight: The fixed weight of the semantic target, in [0, 1]. Used only if
            `distribution_aware` is False.
        alignment_weight: Weight of the semantic alignment loss, at least 0.
        pretrain_steps: Number of first steps with linear pseudo-labels and no alignment loss, at
            least 0.
        distribution_period: Steps between two updates of the pseudo-label distribution, at
            least 1.
        labeled_distribution: K numbers of at least 0, in any scale, such as the labeled images of
            each class: what "auto" compares estimates with. By default there is none.
        **kwargs: `name`, `dtype` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> labeler = DASOPseudoLabeler(pretrain_steps=0, distribution_aware=False, blend_weight=1.0)
    >>> labeler.build([(None, 2), (None, 3)])  # 2 classes, 3 features
    >>> labeler.observe(tf.eye(2, 3), tf.constant([0, 1]))
    >>> labels = labeler(tf.constant([[0.7, 0.3]]), tf.constant([[0.0, 5.0, 0.0]]), step=0)
    >>> int(labels.linear[0]), int(labels.semantic[0]), int(labels.final[0])
    (0, 1, 1)

    Reference:
        Oh, Kim and Kweon, "DASO: Distribution-Aware Semantics-Oriented Pseudo-label for
        Imbalanced Semi-Supervised Learning", CVPR 2022, section 3.
    """

    asks_for = frozenset({"labeled_features"})
    refuses = MappingProxyType({})
    loss_names = ("alignment_loss",)

    def __init__(
        self,
        queue_size: int = 256,
        prototype_temperature: float = 0.05,
        distribution_temperature: float | str = 1.5,
        distribution_aware: bool = True,
        blend_weight: float = 0.5,
        alignment_weight: float = 1.0,
        pretrain_steps: int = 5000,
        distribution_period: int = 100,
        labeled_distribution: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.distribution_temperature: Any = (
            AUTO
            if distribution_temperature == AUTO
            else checked_number(
                "distribution_temperature", cast(float, distribution_temperature), above=0
            )
        )
        if self.distribution_temperature == AUTO and labeled_distribution is None:
            raise ValueError(
                f"distribution_temperature={AUTO!r} needs labeled_distribution, such as the "
                "labeled images of each class."
            )
        self.labeled_distribution: Sequence[float] | None = None
        if labeled_distribution is not None:
            self.labeled_distribution = checked_distribution(
                "labeled_distribution", labeled_distribution
            )
        self.distribution_aware = distribution_aware
        self.blend_weight = checked_number("blend_weight", blend_weight, least=0, most=1)
        self.alignment_weight = checked_number("alignment_weight", alignment_weight, least=0)
        self.pretrain_steps = checked_whole_number("pretrain_steps", pretrain_steps, least=0)
        self.prototype_classifier = PrototypeClassifier(
            queue_size,
            checked_number("prototype_temperature", prototype_temperature, above=0),
            name="prototype_classifier",
        )
        self.distribution = PseudoLabelDistribution(
            checked_whole_number("distribution_period", distribution_period, least=1),
            name="distribution",
        )

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the queues and the histograms; see `PseudoLabeler`."""
        logits_shape, _ = input_shape
        self.prototype_classifier.build(input_shape)
        self.distribution.build(logits_shape)
        if self.distribution_temperature == AUTO:
            self.chosen_temperature = self.add_weight(
                name="chosen_temperature",
                shape=(),
                initializer=keras.initializers.Constant(EQUAL_IMBALANCE),
                trainable=False,
            )
        self.built = True

    def set_class_distribution(self, shares: np.ndarray) -> None:
        """Chooses T_dist, if it is "auto"; see `PseudoLabeler`."""
        if self.distribution_temperature == AUTO:
            assert self.labeled_distribution is not None  # see the constructor
            labeled = np.array(self.labeled_distribution) / sum(self.labeled_distribution)
            same = total_variation(labeled, np.asarray(shares)) <= SAME
            self.chosen_temperature.assign(EQUAL_IMBALANCE if same else OTHER_IMBALANCE)

    def observe(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        """Appends the labeled features to the queues ("Balanced prototype generation")."""
        self.prototype_classifier.push(features, labels)

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels ("Distribution-aware blending"); see `PseudoLabeler.call`."""
        semantic_target = tf.nn.softmax(self.prototype_classifier(features))
        linear = tf.argmax(linear_target, axis=-1)
        semantic = tf.argmax(semantic_target, axis=-1)

        semantic_weight = tf.gather(self._class_weights(), linear)
        pretraining = self._pretraining(step)
        semantic_weight = tf.where(pretraining, 0.0, semantic_weight)[:, None]
        target = (1.0 - semantic_weight) * linear_target + semantic_weight * semantic_target
        return PseudoLabels.from_target(
            tf.stop_gradient(target),
            linear=linear,
            semantic=tf.where(pretraining, tf.constant(-1, tf.int64), semantic),
        )

    def auxiliary_losses(
        self,
        weak_features: tf.Tensor,
        strong_features: tf.Tensor,
        step: tf.Tensor,
        belongs: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Computes the semantic alignment loss ("Semantic alignment loss").

        The gradient flows through the strong view only. See `PseudoLabeler.auxiliary_losses`.
        """
        if not self.alignment_weight:
            return {"alignment_loss": tf.zeros([])}  # saves the gradient of a zero loss
        targets = tf.stop_gradient(tf.nn.softmax(self.prototype_classifier(weak_features)))
        loss = tf.nn.softmax_cross_entropy_with_logits(
            targets, self.prototype_classifier(strong_features)
        )
        if belongs is not None:
            loss *= belongs
        weight = tf.where(self._pretraining(step), 0.0, self.alignment_weight)
        return {"alignment_loss": weight * tf.reduce_mean(loss)}

    def update(self, pseudo_labels: PseudoLabels, step: tf.Tensor) -> None:
        """Counts all final pseudo-labels, whatever their confidence; see `PseudoLabeler.update`."""
        self.distribution.count(pseudo_labels.final, step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {
            **super().get_config(),
            "queue_size": self.prototype_classifier.queue_size,
            "prototype_temperature": self.prototype_classifier.temperature,
            "distribution_temperature": self.distribution_temperature,
            "distribution_aware": self.distribution_aware,
            "blend_weight": self.blend_weight,
            "alignment_weight": self.alignment_weight,
            "pretrain_steps": self.pretrain_steps,
            "distribution_period": self.distribution.period,
            "labeled_distribution": self.labeled_distribution and list(self.labeled_distribution),
        }

    def _pretraining(self, step: tf.Tensor) -> tf.Tensor:
        return tf.cast(step, tf.int64) < self.pretrain_steps

    def _class_weights(self) -> tf.Tensor:
        """Returns v, the weight of the semantic target for each linear pseudo-label."""
        if self.distribution_aware:
            temperature = self.distribution_temperature
            if temperature == AUTO:
                temperature = tf.convert_to_tensor(self.chosen_temperature)
            return self.distribution.tempered(temperature)
        return tf.fill([self.prototype_classifier.num_classes], self.blend_weight)


@keras.saving.register_keras_serializable(package="daso_tf")
class PseudoLabelDistribution(keras.layers.Layer):
    """Histogram of the pseudo-labels over a window of steps.

    The layer counts the pseudo-labels of `period` steps. Then these counts are in force during the
    next `period` steps, while it counts again from 0.

    Args:
        period: Steps in a window, at least 1.
        dtype: Keras dtype policy of this layer. By default float32, whatever the global policy is.
        **kwargs: `name` and `trainable`, as for `keras.layers.Layer`.

    Raises:
        ValueError: If `period` is outside its range.

    Example:

    >>> distribution = PseudoLabelDistribution(period=2)
    >>> distribution.build((None, 3))  # 3 classes
    >>> distribution.count(tf.constant([0, 2]), step=0)
    >>> distribution.in_force.numpy().tolist()
    [0.0, 0.0, 0.0]
    >>> distribution.count(tf.constant([2, 2]), step=1)
    >>> distribution.in_force.numpy().tolist()
    [1.0, 0.0, 3.0]

    Reference:
        Oh, Kim and Kweon, "DASO", CVPR 2022, section 3.3, "Distribution-aware blending".
    """

    def __init__(self, period: int = 100, dtype: Any = "float32", **kwargs: Any):
        super().__init__(dtype=dtype, **kwargs)
        self.period = checked_whole_number("period", period, least=1)

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates the two histograms.

        Args:
            input_shape: The shape of the logits, `(batch, K)`.
        """
        self.in_force, self.counted = (
            self.add_weight(
                name=name, shape=tuple(input_shape[-1:]), initializer="zeros", trainable=False
            )
            for name in ("in_force", "counted")
        )
        self.built = True

    def count(self, pseudo_labels: tf.Tensor, step: tf.Tensor) -> None:
        """Counts the pseudo-labels of a step. The last step of a window puts its counts in force.

        Args:
            pseudo_labels: int `(batch,)`, classes in 0..K-1.
            step: int scalar, the number of steps done before this one.
        """
        num_classes = self.counted.shape[0]
        ones = tf.ones(tf.shape(pseudo_labels))
        in_batch = tf.math.unsorted_segment_sum(ones, pseudo_labels, num_classes)
        counted = self.counted + replicas.total(in_batch)
        window_full = tf.equal((tf.cast(step, tf.int64) + 1) % self.period, 0)
        self.in_force.assign(tf.where(window_full, counted, tf.convert_to_tensor(self.in_force)))
        self.counted.assign(tf.where(window_full, tf.zeros_like(counted), counted))

    def tempered(self, temperature: float | tf.Tensor) -> tf.Tensor:
        """Returns `m_k^(1 / temperature)` for the counts m in force, divided by its maximum.

        Args:
            temperature: Above 0. A high temperature makes the classes more alike.

        Returns:
            float32 `(K,)` in [0, 1]; all 0 until the first window is full.
        """
        counts = tf.convert_to_tensor(self.in_force)
        return tf.math.divide_no_nan(counts, tf.reduce_max(counts)) ** (1.0 / temperature)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this layer."""
        return {**super().get_config(), "period": self.period}
