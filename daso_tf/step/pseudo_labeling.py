"""What learners that teach pseudo-labels have in common."""

from __future__ import annotations

import keras
import tensorflow as tf

from daso_tf.balance.balanced_head import BalancedHead, Features
from daso_tf.platform import draws
from daso_tf.pseudo_labels import LinearPseudoLabeler, PseudoLabeler
from daso_tf.step.averaged import JIT_COMPILE_DEFAULT
from daso_tf.step.learner import Learner
from daso_tf.step.metrics import ClassStatistics
from daso_tf.step.outcome import Outputs, StepOutcome
from daso_tf.thresholds import FixedThreshold, Threshold


class PseudoLabelingLearner(Learner):
    """A learner that teaches its unlabeled images what a pseudo-labeler makes of its predictions.

    Which predictions these are, and how they are taught, is the subclass's business; any
    pseudo-labeler fits any such learner.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        pseudo_labeler: A `PseudoLabeler`; by default a `LinearPseudoLabeler`, which leaves the
            learner as its paper has it.
        loss_names: Names of the loss terms beside those of the pseudo-labeler.
        unlabeled_weight: Weight of the unlabeled loss, at least 0.
        ramp_steps: Steps over which that weight grows linearly from 0; 0 for none.
        threshold: What says how much each pseudo-label is taught, where the subclass asks it: a
            `Threshold`, or a confidence in [0, 1] for a `FixedThreshold`.
        balanced_head: A `daso_tf.balance.BalancedHead`, such as `ABC`: a second classifier on the
            same features, which learns beside the first and answers in its place; by default
            there is none.
        **kwargs: As for `Learner`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | None = None,
        *,
        loss_names: tuple[str, ...],
        unlabeled_weight: float = 1.0,
        ramp_steps: int = 0,
        threshold: float | Threshold | None = None,
        balanced_head: BalancedHead | None = None,
        **kwargs,
    ):
        if not unlabeled_weight >= 0:
            raise ValueError(f"unlabeled_weight must be at least 0, not {unlabeled_weight}.")
        if ramp_steps < 0:
            raise ValueError(f"ramp_steps must be at least 0, not {ramp_steps}.")
        pseudo_labeler = LinearPseudoLabeler() if pseudo_labeler is None else pseudo_labeler
        self._check_refusals(pseudo_labeler, threshold)
        loss_names = (*loss_names, *pseudo_labeler.loss_names)
        if threshold is not None:
            threshold = as_threshold(threshold)
            loss_names = (*loss_names, *threshold.loss_names)
        if balanced_head is not None:
            self._check_balanced_head(balanced_head, num_classes, pseudo_labeler)
            loss_names = (*loss_names, *balanced_head.loss_names)
        super().__init__(encoder, num_classes, loss_names=loss_names, **kwargs)
        self.unlabeled_weight = float(unlabeled_weight)
        self.ramp_steps = int(ramp_steps)
        self.pseudo_labeler = pseudo_labeler
        if not pseudo_labeler.built:  # it is when it comes from a saved model
            pseudo_labeler.build([(None, self.num_classes), (None, self.num_features)])
        self.threshold = threshold
        if threshold is not None and not threshold.built:
            threshold.build((None, self.num_classes))

        self.balanced_head = balanced_head
        if balanced_head is not None:
            self.balanced_classifier, self.ema_balanced_classifier = self.add_head(
                "balanced_classifier", self.num_classes
            )

        self._mask_rate = keras.metrics.Mean("mask_rate")
        self.pseudo_label_statistics = {
            kind: ClassStatistics(self.num_classes, name)
            for kind, name in (
                ("linear", "linear_pseudo_label"),
                ("semantic", "semantic_pseudo_label"),
                ("final", "pseudo_label"),
            )
        }
        self._training_metrics += [self._mask_rate, *self.pseudo_label_statistics.values()]

    @property
    def needs_positions(self) -> bool:
        """Whether pseudo-labeler or threshold must know which unlabeled images a batch holds."""
        parts = (self.pseudo_labeler, self.threshold)
        return any(part is not None and "positions" in part.asks_for for part in parts)

    def compile(self, *args, jit_compile=JIT_COMPILE_DEFAULT, **kwargs):
        """Configures training; see `AveragedClassifier.compile`."""
        reason = self.pseudo_labeler.refuses.get("xla")
        if reason and jit_compile is True:
            raise ValueError(f"The step cannot be compiled with jit_compile=True: {reason}.")
        super().compile(*args, jit_compile=jit_compile, **kwargs)

    def weight_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the weight of the unlabeled loss in a step.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        return self.unlabeled_weight * self.ramp_at(step)

    def ramp_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the part of its weight, in [0, 1], that an unlabeled loss has in a step.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        if not self.ramp_steps:
            return tf.constant(1.0)
        return tf.minimum(tf.cast(step, tf.float32) / self.ramp_steps, 1.0)

    def observe_labeled(self, views: tf.Tensor, labels: tf.Tensor) -> None:
        """Shows the pseudo-labeler the EMA encoder's features of the labeled views, if it looks.

        Args:
            views: float `(batch, height, width, 3)`.
            labels: int `(batch,)`, classes in 0..K-1.
        """
        if "labeled_features" in self.pseudo_labeler.asks_for:
            self.pseudo_labeler.observe(self.ema_features(views), labels)

    @property
    def answering_classifier(self) -> keras.layers.Layer:
        """The balanced head's average where there is one; see `AveragedClassifier`."""
        return self.ema_classifier if self.balanced_head is None else self.ema_balanced_classifier

    def teaching_logits(self, weak: Outputs, step: tf.Tensor) -> tf.Tensor:
        """Returns the logits of the weak views that pseudo-labels are made of.

        Args:
            weak: The `Outputs` for the weak views of the unlabeled images.
            step: int scalar, the number of steps done before this one.

        Returns:
            float32 `(mu * batch, K)`: the classifier's, or those of a balanced head that teaches.
        """
        if self.balanced_head is None:
            return weak.logits
        return self.balanced_head.teaching_logits(
            self.balanced_classifier, weak.features, weak.logits, step
        )

    def balanced_losses(self, features: Features, labels, step) -> dict[str, tf.Tensor]:
        """Computes what the balanced head learns, by name; nothing where there is none.

        Args:
            features: Those of the step's views, which carry the gradient.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            step: int scalar, the number of steps done before this one.
        """
        if self.balanced_head is None:
            return {}
        seed = self.draw_seed(step)
        kept = [
            draws.uniform(seed, stream, tf.shape(images)[0], draws=1)[:, 0]
            for stream, images in (
                (draws.BALANCED_LABELED, features.labeled),
                (draws.BALANCED_UNLABELED, features.weak),
            )
        ]
        loss = self.balanced_head.loss(
            self.balanced_classifier,
            lambda probabilities: self.pseudo_labeler(probabilities, features.weak, step=step),
            features,
            labels,
            tf.concat(kept, axis=0),
            step,
        )
        return {self.balanced_head.loss_names[0]: loss}

    def remember(self, outcome: StepOutcome) -> None:
        """Shows the pseudo-labeler what the step taught."""
        self.pseudo_labeler.update(outcome.pseudo_labels, tf.convert_to_tensor(self.step))

    def track(self, outcome: StepOutcome, labels, unlabeled_labels) -> dict[str, tf.Tensor]:
        """Updates the metrics of training, those of the pseudo-labels among them."""
        logs = super().track(outcome, labels, unlabeled_labels)
        taught = 1.0 if outcome.mask is None else outcome.mask
        self._mask_rate.update_state(taught)
        logs["mask_rate"] = self._mask_rate.result()
        truth_known = unlabeled_labels is not None
        for kind, statistics in self.pseudo_label_statistics.items():
            assigned = getattr(outcome.pseudo_labels, kind)
            truth = unlabeled_labels if truth_known else -tf.ones_like(assigned)
            statistics.update_state(truth, assigned)
        if truth_known:
            logs.update(self.pseudo_label_statistics["final"].result())
        return logs

    def get_config(self):
        """Returns the arguments that make this model again."""
        return {
            **super().get_config(),
            "pseudo_labeler": keras.saving.serialize_keras_object(self.pseudo_labeler),
            "unlabeled_weight": self.unlabeled_weight,
            "ramp_steps": self.ramp_steps,
            "balanced_head": self.balanced_head
            and keras.saving.serialize_keras_object(self.balanced_head),
        }

    def _check_refusals(self, pseudo_labeler: PseudoLabeler, threshold) -> None:
        """Raises a ValueError where the learner has no place for a part that is given."""
        if "margins" in pseudo_labeler.asks_for and self.refuses_margins:
            raise ValueError(
                f"{type(self).__name__} does not go with {type(pseudo_labeler).__name__}: "
                f"{self.refuses_margins}."
            )
        if threshold is not None and self.refuses_threshold:
            raise ValueError(f"{type(self).__name__} takes no threshold: {self.refuses_threshold}.")

    def _check_balanced_head(
        self, balanced_head: BalancedHead, num_classes: int, pseudo_labeler: PseudoLabeler
    ) -> None:
        """Raises a ValueError where learner or pseudo-labeler cannot have a balanced head."""
        if self.refuses_balanced_head:
            raise ValueError(
                f"{type(self).__name__} takes no balanced_head: {self.refuses_balanced_head}."
            )
        for name in balanced_head.asks_for & pseudo_labeler.refuses.keys():
            raise ValueError(
                f"{type(pseudo_labeler).__name__} does not go with "
                f"{type(balanced_head).__name__}: {pseudo_labeler.refuses[name]}."
            )
        if len(balanced_head.labeled_counts) != num_classes:
            raise ValueError(
                f"{type(balanced_head).__name__} is for {len(balanced_head.labeled_counts)} "
                f"classes, not {num_classes}."
            )


def as_threshold(threshold: float | Threshold) -> Threshold:
    """Returns a threshold as it is, or makes a fixed one of a confidence.

    Raises:
        ValueError: If the confidence is outside [0, 1].
    """
    if isinstance(threshold, Threshold):
        return threshold
    check_confidence_threshold(threshold)
    return FixedThreshold(threshold)


def check_confidence_threshold(confidence_threshold: float) -> None:
    """Raises a ValueError where a learner's confidence threshold is outside [0, 1]."""
    if not 0 <= confidence_threshold <= 1:
        raise ValueError(f"confidence_threshold must be in [0, 1], not {confidence_threshold}.")
