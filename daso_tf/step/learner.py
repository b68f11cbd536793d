"""The training step that all learners share."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from daso_tf.augment import Weak
from daso_tf.balance import SupervisedLoss
from daso_tf.encoders.batch_normalization import batch_norms_of
from daso_tf.platform import replicas
from daso_tf.platform.keras_versions import (
    apply_gradients,
    scales_losses,
    step_logs,
    train_on_batch,
)
from daso_tf.step import ema, gradients
from daso_tf.step.averaged import AveragedClassifier, unpack
from daso_tf.step.metrics import ClassStatistics
from daso_tf.step.outcome import Outputs, StepOutcome


class Learner(AveragedClassifier):
    """A network that learns from labeled and unlabeled images, in one compiled step.

    A subclass says which views are made (`make_views`) and which losses are summed
    (`compute_losses`); this class does what all of them have in common: gradient, weight decay,
    optimizer, moving average, and what is measured on the way. Evaluation, prediction and export
    use the moving average (EMA) of the network.

    `fit` takes batches `((labeled, unlabeled), labels)` of raw uint8 images
    `(batch, height, width, 3)`, or `((labeled, unlabeled), (labels, unlabeled_labels))` where the
    true classes of the unlabeled images are known (-1 where not): they are only used to measure
    the pseudo-labels. Where the learner `needs_positions`, the images are `(labeled, unlabeled,
    positions)`. `evaluate` takes `(images, labels)`.

    Args:
        encoder: A `keras.Model` from normalised float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        loss_names: Names of the loss terms that `compute_losses` gives back.
        weight_decay: L2 factor, *added to the gradient* of every parameter (not decoupled).
        ema_decay: Final decay of the moving average, in [0, 1).
        supervised_loss: What the labeled images cost, a `daso_tf.balance.SupervisedLoss`; by
            default plain cross-entropy.
        weak: Layer that makes weak views, called as `weak(images, seed=...)`; by default `Weak()`.
        seed: With the step it decides every random draw of the step.
        first_step: Steps that are counted as done before the first one; a later generation of
            self-training begins anew with them.
        microbatches: Equal parts in which a step's batch goes through the networks, one after
            another, where the whole of it does not fit into memory (gradient accumulation). Views,
            optimizer, moving average, step and what `remember` keeps are of the whole batch. Each
            part is a batch of its own to whatever looks at a batch: BatchNorm, queues, the moving
            averages of thresholds and alignment, MixUp, losses that are no mean over images.
        **kwargs: As for `AveragedClassifier`: `resolution`, `mean`, `std`, `class_names`, `name`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    # Why a learner takes no pseudo-labeler; None where it takes one.
    refuses_pseudo_labeler: str | None = None
    # Whether its batches are to hold as many labeled images of every class.
    class_balanced_batches = False
    # Why it takes no balanced head; None where it takes one.
    refuses_balanced_head: str | None = (
        "it has no consistency loss between weak and strong views for the head to share"
    )
    # Why it has no place for a pseudo-labeler's margins; None where it has.
    refuses_margins: str | None = (
        "it teaches probabilities, not one class by cross-entropy, where margins have their place"
    )
    # Why it takes no threshold; None where it takes one.
    refuses_threshold: str | None = (
        "it does not choose by confidence which pseudo-labels it teaches"
    )

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        *,
        loss_names: tuple[str, ...],
        weight_decay: float = 5e-4,
        ema_decay: float = 0.999,
        supervised_loss: SupervisedLoss | None = None,
        weak: keras.layers.Layer | None = None,
        seed: int = 0,
        first_step: int = 0,
        microbatches: int = 1,
        **kwargs,
    ):
        super().__init__(encoder, num_classes, **kwargs)
        self.weight_decay = float(weight_decay)
        self.ema_decay = float(ema_decay)
        self.supervised_loss = SupervisedLoss() if supervised_loss is None else supervised_loss
        self.weak = Weak() if weak is None else weak
        self.seed = int(seed)
        self.first_step = int(first_step)
        self.microbatches = int(microbatches)
        self._microbatch = 0  # the one that is being computed
        self._check_arguments()

        self.step = self.add_weight(
            name="step", shape=(), initializer="zeros", trainable=False, dtype="int64"
        )
        self.step.assign(self.first_step)

        self.weak.build((None, None, None, 3))
        self._means = {
            name: keras.metrics.Mean(name) for name in ("loss", *loss_names, "gradient_norm")
        }
        self._training_metrics = list(self._means.values())
        # By kind of pseudo-label; a learner that makes pseudo-labels fills it.
        self.pseudo_label_statistics: dict[str, ClassStatistics] = {}

    # What a learner is made of ---------------------------------------------------------------

    def make_views(self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor) -> Any:
        """Makes the views of a step from raw images; what they are is the learner's own.

        Args:
            labeled: uint8 `(batch, height, width, 3)`.
            unlabeled: uint8 `(mu * batch, height, width, 3)`.
            seed: int32 `(2,)`, another one in every step.
        """
        raise ValueError(f"{type(self).__name__} does not say which views it makes: `make_views`.")

    @property
    def needs_positions(self) -> bool:
        """Whether batches have to say which unlabeled images they hold."""
        return False

    def compute_losses(
        self, views: Any, labels: tf.Tensor, positions: tf.Tensor | None = None
    ) -> StepOutcome:
        """Computes the loss terms of a step from its views.

        Args:
            views: What `make_views` gave back.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            positions: int64 `(mu * batch,)`, which of all unlabeled images these are; None where
                the batch does not say.
        """
        raise ValueError(f"{type(self).__name__} does not say what it minimises: `compute_losses`.")

    def remember(self, outcome: StepOutcome) -> None:
        """Remembers what a step computed, once a step; a learner that has no memory does not.

        Args:
            outcome: Of the whole batch.
        """

    def cut_views(self, views: Any, count: int) -> Any:
        """Cuts views into microbatches; by default the rows of every tensor.

        Args:
            views: What `make_views` gave back.
            count: How many microbatches.

        Returns:
            The same structure of tensors `(count, rows of a microbatch, ...)`.
        """
        return tf.nest.map_structure(lambda rows: gradients.cut(rows, count), views)

    def draw_seed(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the seed of what `compute_losses` draws, int32 `(2,)`, one a microbatch."""
        draw = tf.cast(step, tf.int32) * self.microbatches + self._microbatch
        return tf.stack([self.seed, draw])

    def forward(self, *views: tf.Tensor) -> list[Outputs]:
        """Maps views through the trained network as one joint batch, in training mode.

        BatchNorm normalises all of them together, and its running statistics move once.

        Args:
            *views: float `(any, resolution, resolution, 3)` each, as the encoder takes them.

        Returns:
            The `Outputs` of each.
        """
        features = self.features(tf.concat(views, axis=0))
        logits = tf.cast(self.classifier(features), tf.float32)
        sizes = [tf.shape(view)[0] for view in views]
        of_views = zip(tf.split(features, sizes), tf.split(logits, sizes), strict=True)
        return [Outputs(*of_view) for of_view in of_views]

    # The step --------------------------------------------------------------------------------

    def train_step(self, data):
        """Makes views of raw images and trains on them; one compiled function."""
        inputs, labels = unpack(data)
        labeled, unlabeled, positions = inputs if len(inputs) == 3 else (*inputs, None)
        labels, unlabeled_labels = labels if isinstance(labels, (tuple, list)) else (labels, None)
        seed = tf.stack([self.seed, tf.cast(self.step, tf.int32)])
        views = self.compiled_part(self.make_views)(labeled, unlabeled, seed)
        outcome = self.train_on_views(views, labels, positions)
        return step_logs(self, self.track(outcome, labels, unlabeled_labels))

    def train_on_batch(self, x, y, return_dict: bool = False):
        """Trains a step on arrays, a batch as `fit` takes it; as `keras.Model.train_on_batch`."""
        return train_on_batch(self, x, y, return_dict)

    def train_on_views(
        self, views: Any, labels: tf.Tensor, positions: tf.Tensor | None = None
    ) -> StepOutcome:
        """Trains one step on views that are already made.

        Args:
            views: What `make_views` gives back.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            positions: As for `compute_losses`.

        Returns:
            The `StepOutcome`.
        """
        outcome, gradient = self._losses_and_gradient(views, labels, positions)
        # Every replica's losses are means over as many rows, so theirs is that of the whole batch.
        gradient = replicas.mean(gradient)
        outcome = outcome._replace(gradient_norm=tf.linalg.global_norm(gradient))
        self.remember(outcome)
        variables = self.trainable_variables
        # L2 on every parameter, biases and BatchNorm included, as PyTorch's SGD has it.
        decayed = [g + self.weight_decay * v for g, v in zip(gradient, variables, strict=True)]
        apply_gradients(self.optimizer, decayed, variables)
        replicas.average(self.unsynchronized_statistics)
        decay = ema.decay_at(tf.convert_to_tensor(self.step) - self.first_step, self.ema_decay)
        if scales_losses(self.optimizer):  # and has passed over gradients that are not finite
            decay = tf.where(tf.math.is_finite(outcome.gradient_norm), decay, 1.0)
        ema.update(self.ema_network_weights, self.network_weights, decay)
        self.step.assign_add(1)
        return outcome

    @property
    def unsynchronized_statistics(self) -> list[keras.Variable]:
        """Running statistics that each replica of a distributed step moves by its own rows."""
        norms = [*batch_norms_of(self.encoder), *batch_norms_of(self.ema_encoder)]
        alone = [norm for norm in norms if not norm.synchronized]
        return [weight for norm in alone for weight in (norm.moving_mean, norm.moving_variance)]

    # Parts of the above ----------------------------------------------------------------------

    def get_config(self):
        """Returns the arguments that make this model again."""
        return {
            **super().get_config(),
            "weight_decay": self.weight_decay,
            "ema_decay": self.ema_decay,
            "supervised_loss": keras.saving.serialize_keras_object(self.supervised_loss),
            "weak": keras.saving.serialize_keras_object(self.weak),
            "seed": self.seed,
            "first_step": self.first_step,
            "microbatches": self.microbatches,
        }

    def track(self, outcome: StepOutcome, labels, unlabeled_labels) -> dict[str, tf.Tensor]:
        """Updates the metrics of training.

        Args:
            outcome: What `train_on_views` gave back.
            labels: int `(batch,)`, classes of the labeled images.
            unlabeled_labels: int `(mu * batch,)`, those of the unlabeled images, -1 where unknown;
                None where all are.

        Returns:
            The values that the progress bar shows, by name.
        """
        total = tf.add_n(list(outcome.losses.values()))
        norm, weight = outcome.gradient_norm, None
        if scales_losses(self.optimizer):  # the mean is of the steps that were taken
            weight = tf.cast(tf.math.is_finite(norm), tf.float32)
            norm = tf.where(weight > 0, norm, 0.0)
        self._means["gradient_norm"].update_state(norm, weight)
        for name, value in {"loss": total, **outcome.losses}.items():
            self._means[name].update_state(value)
        logs = {name: metric.result() for name, metric in self._means.items()}
        self.compute_metrics(None, labels, tf.nn.softmax(outcome.labeled_logits), None)
        for metric in self.user_metrics:
            result = metric.result()
            logs.update(result if isinstance(result, dict) else {metric.name: result})
        return logs

    def _check_replicas(self):
        super()._check_replicas()
        if self.microbatches > 1:
            raise ValueError(
                f"microbatches={self.microbatches} does not go with several replicas: they cannot "
                "tell each other anything within a loop. More replicas need less memory each."
            )

    def _losses_and_gradient(self, views, labels, positions):
        """Returns the `StepOutcome` of a batch and the gradient of its losses."""
        inputs = {"labels": labels}
        if positions is not None:
            inputs["positions"] = positions

        def compute(index, views, inputs):
            self._microbatch = index
            return self.compute_losses(views, **inputs)

        count, variables = self.microbatches, self.trainable_variables
        try:
            if count == 1:
                return gradients.of_batch(
                    lambda: compute(0, views, inputs), variables, self.optimizer
                )
            parts = self.cut_views(views, count), Learner.cut_views(self, inputs, count)
            return gradients.of_microbatches(compute, parts, count, variables, self.optimizer)
        finally:
            self._microbatch = 0

    def _refuse_pseudo_labeler(self, arguments: dict[str, Any]) -> None:
        """Raises a ValueError with the learner's reason where a pseudo-labeler is given."""
        if "pseudo_labeler" in arguments:
            raise ValueError(
                f"{type(self).__name__} takes no pseudo_labeler: {self.refuses_pseudo_labeler}."
            )

    def _check_arguments(self) -> None:
        """Raises a ValueError that names the first argument outside its range."""
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, not {self.weight_decay}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}.")
        if self.microbatches < 1:
            raise ValueError(f"microbatches must be at least 1, not {self.microbatches}.")
        counts = getattr(self.supervised_loss, "labeled_counts", None)
        if counts is not None and len(counts) != self.num_classes:
            raise ValueError(
                f"{type(self.supervised_loss).__name__} is for {len(counts)} classes, not "
                f"{self.num_classes}."
            )
