"""The training step that all learners share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, cast

import keras
import numpy as np
import tensorflow as tf

from daso_tf.augment import Weak
from daso_tf.balance import BalancedHead, SupervisedLoss
from daso_tf.balance.logit_adjustment import LogitAdjustedLoss, log_prior
from daso_tf.data import BankedData, Images, SemiSupervisedData
from daso_tf.data.places import check_one_replica
from daso_tf.encoders.checks import check_encoder
from daso_tf.encoders.normalized_input import normalization_of
from daso_tf.open_set import OpenSet
from daso_tf.platform import compiled, draws, replicas
from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.keras_versions import (
    apply_gradients,
    jit_compiles,
    rate_of,
    scales_losses,
    step_logs,
    train_on_batch,
)
from daso_tf.pseudo_labels import PseudoLabeler, PseudoLabels
from daso_tf.pseudo_labels.pseudo_labeler import debiased
from daso_tf.step import compatibility, fitting, gradients, inputs, known_images
from daso_tf.step import weight_decay as weight_decay_rules
from daso_tf.step.balanced_classifier import BalancedClassifier
from daso_tf.step.classifier import JIT_COMPILE_DEFAULT, Classifier, arguments_of
from daso_tf.step.device_images import DeviceImages
from daso_tf.step.metrics import StepMetrics
from daso_tf.step.named_parts import Known, part
from daso_tf.step.network import decay_at, input_size
from daso_tf.step.outcome import Outputs, StepOutcome
from daso_tf.step.signatures import show_all_arguments
from daso_tf.step.stored_views import stored_weak
from daso_tf.thresholds import FixedThreshold, Selection, Threshold

# Why most learners have no place for these; see `Learner.refuses`.
NO_THRESHOLD = "it does not choose by confidence which pseudo-labels it teaches"
NO_BALANCED_HEAD = "it has no consistency loss between weak and strong views for the head to share"
NO_STEP_LOSSES = "it has no consistency loss between weak and strong views to replace"
NO_JOINT_PASS = "it has no joint pass of all views"
NO_OPEN_SET = "it teaches all unlabeled images alike"
NO_MARGINS = "it teaches probabilities, and margins need a cross-entropy with one class per image"


class Learner(BalancedClassifier):
    """A classifier that learns from labeled and unlabeled images, in one compiled step.

    A subclass defines which views are made (`make_views`) and which losses are summed
    (`compute_losses`). This class does what all of them share: gradient, weight decay, optimizer,
    moving average and metrics. Evaluation, prediction and export use the moving average (EMA) of
    the network.

    `fit` takes batches `((labeled, unlabeled), labels)` of raw uint8 images
    `(batch, height, width, 3)`, or `((labeled, unlabeled), (labels, unlabeled_labels))` where true
    classes of unlabeled images are known (-1 where not); they only serve to measure the
    pseudo-labels. Where the learner `needs_positions`, the images are `(labeled, unlabeled,
    positions)`. `daso_tf.data.training_batches(data, ..., **learner.batch_arguments)` makes such
    batches. `evaluate` takes `(images, labels)`.

    Args:
        encoder: A `keras.Model` from normalized float images `(batch, height, width, 3)` to
            features `(batch, D)`.
        num_classes: K, at least 2.
        pseudo_labeler: A `daso_tf.pseudo_labels.PseudoLabeler`; None where the learner makes no
            pseudo-labels. Like `threshold`, `balanced_head`, `open_set`, `supervised_loss` and
            `weak`, it may also be its name on the command line, such as `"daso"`. A part by name
            has the defaults of the command's flags.
        loss_names: Names of the loss terms that `compute_losses` returns, without those of
            `pseudo_labeler`, `threshold` and `balanced_head`.
        threshold: How strongly each pseudo-label is taught: a least confidence in [0, 1], or a
            `daso_tf.thresholds.Threshold`.
        balanced_head: A `daso_tf.balance.BalancedHead` such as `ABC`: a second classifier on the
            same features, which makes the predictions instead of the first. By default there is
            none.
        open_set: A `daso_tf.open_set.OpenSet` such as `Energy`, which keeps unlabeled images that
            belong to no class out of the losses and of the estimates of the class distribution. By
            default there is none.
        unlabeled_weight: Weight of the loss of the unlabeled images, at least 0.
        ramp_steps: Number of steps, at least 0, in which this weight grows linearly from 0.
        supervised_loss: Loss of the labeled images, a `daso_tf.balance.SupervisedLoss`; by default
            cross-entropy.
        weak: Layer that makes weak views, called as `weak(images, seed=...)`; by default `Weak()`.
        weight_decay: L2 factor, at least 0, *added to the gradient* of every parameter (not
            decoupled).
        decayed: What it decays: "all" parameters; "kernels", those with more than one dimension,
            without biases and BatchNorm; or "state", everything that is averaged, running
            statistics included, which is multiplied by `1 - learning rate * weight_decay` after
            each step, as CDMAD's authors do.
        ema_decay: Final decay of the moving average, in [0, 1).
        ema_warmup: Whether the decay grows from 0 at the first step, so that early weights are
            forgotten soon. If False, it is `ema_decay` from the first step on.
        average_statistics: Whether the running statistics of BatchNorm are averaged, too. If False,
            the averaged network has those of the trained network.
        seed: A whole number of at least 0. Together with the step it determines every random
            number of the step.
        first_step: Number of steps that count as done before the first one, at least 0; later
            generations of self-training use it.
        microbatches: Number of equal parts, at least 1, in which a batch is computed, one after
            another, to save memory (gradient accumulation). Views, optimizer, moving average, step
            and memories see the whole batch. Whatever looks at a batch as a whole sees a part:
            BatchNorm, queues, moving averages of thresholds and alignment, MixUp.
        estimated_prior: Whether logit adjustment, in training or at test time, makes the
            predictions those for the class distribution of the unlabeled images, and not for
            equally many images of each class. It is that of the labeled images, `labeled_counts`,
            until `set_class_distribution` is called. It does not change the loss.
        data: The `daso_tf.data.SemiSupervisedData` that the learner will be trained on. Parts by
            name take their counts from it, and `mean`, `std`, `class_names` and `labeled_counts`
            are its own unless they are given. It is not saved.
        total_steps: Steps of the whole training, at least 1, for parts by name that depend on it.
            It is not saved.

    Attributes:
        asks_for: What the learner needs from its batches: "class_balanced_batches", batches with
            equally many labeled images of every class.
        labeled_alone: Whether the learner learns from the labeled images alone.
        refuses: What the learner cannot be combined with, and why, by the name of the argument
            ("pseudo_labeler", "threshold", "balanced_head", "open_set") or of what a part asks for
            ("margins", "step_losses", "joint_pass", see `PseudoLabeler`). "balance" stands for
            every method against the imbalance of the labeled images.
        own_pseudo_labeler: The pseudo-labeler that a learner which refuses others makes itself.

    Raises:
        ValueError: If an argument is outside its range, or two parts cannot be combined.
    """

    asks_for: ClassVar[frozenset[str]] = frozenset()
    labeled_alone: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "threshold": NO_THRESHOLD,
            "balanced_head": NO_BALANCED_HEAD,
            "open_set": NO_OPEN_SET,
            "margins": NO_MARGINS,
            "step_losses": NO_STEP_LOSSES,
        }
    )

    own_pseudo_labeler: ClassVar[type[PseudoLabeler] | None] = None
    # None where a learner has no use for them; what uses them has one.
    pseudo_labeler: PseudoLabeler
    threshold: Threshold
    # Not "= None" here: Keras 2 does not track what is assigned to an attribute of the class.
    open_set: OpenSet | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hidden = {"loss_names", *cls.refuses}
        if "pseudo_labeler" in cls.refuses and cls.own_pseudo_labeler is None:
            hidden |= {"unlabeled_weight", "ramp_steps"}
        show_all_arguments(cls, Classifier, frozenset(hidden))

    def __init__(
        self,
        encoder: keras.Model,
        num_classes: int,
        pseudo_labeler: PseudoLabeler | str | None = None,
        *,
        loss_names: tuple[str, ...] = ("supervised_loss",),
        threshold: float | str | Threshold | None = None,
        balanced_head: BalancedHead | str | None = None,
        open_set: OpenSet | str | None = None,
        unlabeled_weight: float = 1.0,
        ramp_steps: int = 0,
        supervised_loss: SupervisedLoss | str | None = None,
        weak: keras.layers.Layer | str | None = None,
        weight_decay: float = 5e-4,
        decayed: str = "all",
        ema_decay: float = 0.999,
        ema_warmup: bool = True,
        average_statistics: bool = True,
        seed: int = 0,
        first_step: int = 0,
        microbatches: int = 1,
        estimated_prior: bool = False,
        data: SemiSupervisedData | None = None,
        total_steps: int | None = None,
        **kwargs: Any,
    ):
        check_encoder(encoder)
        if data is not None:
            _check_is_of(data, num_classes)
            counts = data.labeled_counts.tolist()
            mean, std = normalization_of(encoder) or (data.mean, data.std)
            of_data: dict[str, Any] = {"mean": mean, "std": std, "class_names": data.class_names}
            if isinstance(data, BankedData):
                of_data |= {"frozen_encoder": data.encoder, "resolution": data.resolution}
                weak = stored_weak(data) if weak is None else weak
            kwargs = {**of_data, "labeled_counts": counts, **kwargs}
        if "confidence_threshold" in kwargs:  # its name until version 0.1
            if threshold != inspect.signature(type(self)).parameters["threshold"].default:
                raise ValueError(
                    "confidence_threshold is the old name of threshold: leave it out, since "
                    f"threshold={threshold!r} is given."
                )
            threshold = kwargs.pop("confidence_threshold")

        if total_steps is not None:
            total_steps = checked_whole_number("total_steps", total_steps, least=1)

        def known() -> Known:
            with_images = kwargs.get("frozen_encoder") or encoder
            resolution = kwargs.get("resolution") or input_size(with_images)
            return Known(type(self), data, total_steps, resolution, num_classes)

        labeler = part("pseudo_labeler", pseudo_labeler, known)
        if threshold is None and labeler is not None and "threshold" not in self.refuses:
            threshold = labeler.confidence
        selects = _as_threshold(part("threshold", threshold, known))
        head = part("balanced_head", balanced_head, known)
        unknown = part("open_set", open_set, known)
        loss = part("supervised_loss", supervised_loss, known)
        views = part("weak", weak, known)
        classifier = part("classifier", kwargs.pop("classifier", None), known)
        if kwargs.get("frozen_encoder") is not None and "frozen_encoder" in self.refuses:
            reason = self.refuses["frozen_encoder"]
            raise ValueError(f"frozen_encoder does not go with {type(self).__name__}: {reason}.")
        compatibility.check(
            type(self),
            pseudo_labeler=labeler,
            threshold=selects,
            balanced_head=head,
            open_set=unknown,
            supervised_loss=loss,
        )
        if kwargs.get("test_logit_adjustment"):
            for one in (labeler, head):
                if one is not None and "balance" in one.refuses:
                    raise ValueError(
                        f"test_logit_adjustment does not go with {type(one).__name__}: "
                        f"{one.refuses['balance']}."
                    )
        if labeler is None and (unlabeled_weight != 1 or ramp_steps):
            raise ValueError(
                f"{type(self).__name__} makes no pseudo-labels: leave out unlabeled_weight and "
                "ramp_steps."
            )
        self._check_is_for(head, num_classes)
        self._check_is_for(loss, num_classes)
        weights = {"unlabeled_weight": unlabeled_weight, "weight_decay": weight_decay}
        weights = {name: checked_number(name, value, least=0) for name, value in weights.items()}
        ema_decay = checked_number("ema_decay", ema_decay, least=0, below=1)
        if decayed not in weight_decay_rules.DECAYED:
            allowed = ", ".join(weight_decay_rules.DECAYED)
            raise ValueError(f"decayed must be one of {allowed}, not {decayed!r}.")
        counts = {"ramp_steps": ramp_steps, "seed": seed, "first_step": first_step}
        counts = {
            name: checked_whole_number(name, value, least=0) for name, value in counts.items()
        }
        microbatches = checked_whole_number("microbatches", microbatches, least=1)

        super().__init__(encoder, num_classes, classifier=classifier, **kwargs)
        self.unlabeled_weight = weights["unlabeled_weight"]
        self.weight_decay = weights["weight_decay"]
        self.decayed = decayed
        self.ema_decay = ema_decay
        self.ema_warmup = bool(ema_warmup)
        self.average_statistics = bool(average_statistics)
        self.ramp_steps = counts["ramp_steps"]
        self.seed = counts["seed"]
        self.first_step = counts["first_step"]
        self.microbatches = microbatches
        self.supervised_loss = SupervisedLoss() if loss is None else loss
        self.weak = Weak() if views is None else views
        self.step = self.add_weight(
            name="step", shape=(), initializer="zeros", trainable=False, dtype="int64"
        )
        self.step.assign(self.first_step)
        self.weak.build((None, None, None, 3))

        # A part that comes from a saved model is built already.
        self.pseudo_labeler = cast(PseudoLabeler, labeler)
        if labeler is not None and not labeler.built:
            labeler.build([(None, self.num_classes), (None, self.num_features)])
        self.threshold = cast(Threshold, selects)
        if selects is not None and not selects.built:
            selects.build((None, self.num_classes))
        self.answered_distribution: tf.Variable | None = None
        if estimated_prior:
            if self.labeled_counts is None:
                raise ValueError(
                    "estimated_prior needs labeled_counts, the labeled images of each class."
                )
            self.answered_distribution = self.add_weight(
                name="answered_distribution",
                shape=(self.num_classes,),
                initializer=keras.initializers.Constant(np.exp(log_prior(self.labeled_counts))),
                trainable=False,
            )
        self.add_balanced_head(head)
        self.open_set = unknown
        if unknown is not None and not unknown.built:
            unknown.build([(None, self.num_classes), (None, self.num_features)])
        parts = [p for p in (labeler, selects, head) if p is not None]
        names = (*loss_names, *(name for p in parts for name in p.loss_names))
        self._device_images: DeviceImages | None = None
        self._step_metrics = StepMetrics(names, self.num_classes, labeler is not None)
        self._training_metrics = self._step_metrics.all

    # What a learner defines ------------------------------------------------------------------

    def make_views(self, labeled: tf.Tensor, unlabeled: tf.Tensor, seed: tf.Tensor) -> Any:
        """Makes the views of a step from raw images, in a structure of the learner's choice.

        Args:
            labeled: uint8 `(batch, height, width, 3)`.
            unlabeled: uint8 `(mu * batch, height, width, 3)`.
            seed: int32 `(2,)`, another one in every step.

        Returns:
            What `compute_losses` takes: tensors, or a structure of them such as a named tuple.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `make_views`.")

    def make_strong_labeled_views(self, labeled: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Makes strong views of the labeled images, for parts that ask for them.

        Args:
            labeled: uint8 `(batch, height, width, 3)`.
            seed: int32 `(2,)`, that of `make_views`, whose draws stay the same.

        Returns:
            float `(batch, resolution, resolution, 3)`, as the encoder takes them.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `make_strong_labeled_views`."
        )

    def compute_losses(
        self, views: Any, labels: tf.Tensor, positions: tf.Tensor | None = None
    ) -> StepOutcome:
        """Computes the loss terms of a step from its views.

        Learners that take a balanced head have another argument `strong_labeled`, the result of
        `make_strong_labeled_views`, or None if no part asks for it. Learners that take an open set
        have another argument `belongs`, float `(mu * batch,)`: 1 for an unlabeled image that may
        belong to a class, 0 for the others; None without an open set.

        Args:
            views: What `make_views` returned.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            positions: int64 `(mu * batch,)`, positions of the unlabeled images among all of them;
                None where the batch does not have them.

        Returns:
            The `StepOutcome`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `compute_losses`.")

    def cut_views(self, views: Any, count: int) -> Any:
        """Cuts views into microbatches; by default the rows of every tensor.

        Args:
            views: What `make_views` returned.
            count: Number of microbatches.

        Returns:
            The same structure of tensors `(count, rows of a microbatch, ...)`.
        """
        return tf.nest.map_structure(lambda rows: gradients.cut(rows, count), views)

    def remember(self, outcome: StepOutcome) -> None:
        """Remembers what a step computed, once per step; by default the pseudo-labeler does.

        Args:
            outcome: That of the whole batch.
        """
        if self.pseudo_labeler is not None and outcome.pseudo_labels is not None:
            self.pseudo_labeler.update(outcome.pseudo_labels, tf.convert_to_tensor(self.step))

    # What `compute_losses` uses --------------------------------------------------------------

    def forward(self, *views: tf.Tensor) -> list[Outputs]:
        """Maps views through the trained network as one joint batch, in training mode.

        BatchNorm normalizes all of them together and updates its running statistics once.

        Args:
            *views: float `(any, resolution, resolution, 3)` each, as the encoder takes them.

        Returns:
            The `Outputs` of each.
        """
        features = self.network.features(tf.concat(views, axis=0))
        logits = tf.cast(self.classifier(features), tf.float32)
        sizes = [tf.shape(view)[0] for view in views]
        per_view = zip(tf.split(features, sizes), tf.split(logits, sizes), strict=True)
        return [Outputs(*outputs) for outputs in per_view]

    @property
    def blank_image(self) -> tf.Tensor:
        """An image without content, as the encoder takes it: 1 in every channel, or its features.

        A frozen encoder maps it once, not in every step.
        """
        with tf.init_scope():
            blank = tf.ones((1, self.resolution, self.resolution, 3))
            frozen = self.network.frozen
            return blank if frozen is None else tf.cast(frozen(blank, training=False), tf.float32)

    def blank_logits(self) -> tf.Tensor:
        """Maps the blank image through the trained network in training mode, on its own.

        BatchNorm updates its running statistics. All replicas do the same.

        Returns:
            float32 `(1, K)`. No gradient flows through it.
        """
        with replicas.each_alone():
            (blank,) = self.forward(self.blank_image)
        return tf.stop_gradient(blank.logits)

    def answering_logits(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the logits of the predictions; see `Classifier.answering_logits`."""
        logits = super().answering_logits(features)
        if self.pseudo_labeler is None or "blank_image" not in self.pseudo_labeler.asks_for:
            return logits
        blank = self.network.ema_features(self.blank_image, training=False)
        return debiased(logits, super().answering_logits(blank))

    def as_answered(self, logits: tf.Tensor) -> tf.Tensor:
        """Applies logit adjustment; see `Classifier.as_answered`."""
        prior = self.answered_log_prior
        logits = super().as_answered(logits)
        return logits if prior is None else logits + prior

    @property
    def answered_log_prior(self) -> tf.Tensor | None:
        """The logarithm of the class distribution that logit adjustment answers for, `(K,)`.

        None where it is the uniform one, or where nothing adjusts the logits.
        """
        adjusts = self.test_logit_adjustment or isinstance(self.supervised_loss, LogitAdjustedLoss)
        if self.answered_distribution is None or not adjusts:
            return None
        return tf.math.log(tf.convert_to_tensor(self.answered_distribution))

    def set_class_distribution(self, shares: np.ndarray) -> None:
        """Gives an estimate of the class distribution of the unlabeled images to all parts.

        Pseudo-labelers that align to it or choose by it take it, and so do the predictions with
        `estimated_prior`. Call it between steps; a compiled step uses it from then on.

        Args:
            shares: float `(K,)` above 0, summing to 1.
        """
        if self.pseudo_labeler is not None:
            self.pseudo_labeler.set_class_distribution(shares)
        if self.answered_distribution is not None:
            self.answered_distribution.assign(shares)

    def observe_labeled(self, views: tf.Tensor, labels: tf.Tensor) -> None:
        """Passes the EMA encoder's features of the labeled views to a pseudo-labeler that asks.

        Args:
            views: float `(batch, resolution, resolution, 3)`.
            labels: int `(batch,)`, classes in 0..K-1.
        """
        if "labeled_features" in self.pseudo_labeler.asks_for:
            self.pseudo_labeler.observe(self.network.ema_features(views), labels)

    def selected(
        self,
        pseudo_labels: PseudoLabels,
        logits: tf.Tensor,
        labels: tf.Tensor | None,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> tuple[PseudoLabels, Selection]:
        """Selects which pseudo-labels are taught, and how strongly: never those of no class.

        Args:
            pseudo_labels: What the pseudo-labeler returned.
            logits: float `(mu * batch, K)` of the views that it labeled, by the first classifier.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images; None where the
                images are not those of a step.
            step: int scalar, the number of steps done before this one.
            positions: As for `compute_losses`.
            belongs: As for `compute_losses`.

        Returns:
            The pseudo-labels to teach, and the `Selection` of the threshold with the weights that
            they are taught with.
        """
        selection = self.threshold(
            pseudo_labels.target, labels, positions, step=step - self.first_step
        )
        weights = selection.weights
        if self.balanced_head is not None:
            weights = self.balanced_head.selected(weights, tf.stop_gradient(logits))
        if selection.labels is not None:
            pseudo_labels = pseudo_labels._replace(final=selection.labels)
        return pseudo_labels, selection._replace(weights=known_images.taught(weights, belongs))

    def weight_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the weight of the unlabeled loss in a step.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        return self.unlabeled_weight * self.ramp_at(step)

    def ramp_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the fraction of its weight, in [0, 1], that an unlabeled loss has in a step.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        if not self.ramp_steps:
            return tf.constant(1.0)
        since = tf.cast(step, tf.float32) - self.first_step  # in this generation of self-training
        return tf.minimum(since / self.ramp_steps, 1.0)

    def draw_seed(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the seed of a balanced head's draws; see `BalancedClassifier.draw_seed`."""
        draw = tf.cast(step, tf.int32) * self.microbatches + gradients.microbatch()
        return tf.stack([self.seed, draw])

    def unknown_scores(self, images: tf.Tensor) -> tf.Tensor:
        """Scores how much images look like none of the classes, as the open set does.

        Args:
            images: As for `ema_logits`.

        Returns:
            float32 `(batch,)`.

        Raises:
            ValueError: If the learner has no open set.
        """
        if self.open_set is None:
            raise ValueError(f"This {type(self).__name__} has no open set: give it open_set=.")
        outputs = self.ema_outputs(images)
        return self.open_set(outputs.logits, outputs.features)

    # The step --------------------------------------------------------------------------------

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes views of raw images and trains on them; one compiled function."""
        # A batch that is refused where it is made must not count as a step.
        with tf.control_dependencies(list(filter(tf.is_tensor, tf.nest.flatten(data)))):
            images, labels = inputs.unpack(data)
            if self._device_images is not None:
                images = self._device_images.taken(images)
            with compiled.whole(jit_compiles(self)):
                return self._train_step(images, labels)

    def keep_on_device(self, labeled: Images, unlabeled: Images) -> None:
        """Keeps images on the device, for batches that have their positions; `fit` calls it.

        Args:
            labeled: All labeled images.
            unlabeled: All unlabeled images.

        Raises:
            DataError: If they do not fit into the memory of the device, or several replicas train.
        """
        check_one_replica(self.distribute_strategy.num_replicas_in_sync)
        kept = DeviceImages(labeled, unlabeled)
        if self._device_images is None or not kept.same_as(self._device_images):
            self._device_images = kept
            self.train_function = None  # a compiled step takes the images that it was made with

    def train_on_batch(self, x: Any, y: Any, return_dict: bool = False) -> Any:
        """Trains a step on arrays, a batch as `fit` takes it; as `keras.Model.train_on_batch`."""
        self._guard(self._optional).checked(inputs.training_parts, x, y)
        return train_on_batch(self, x, y, return_dict)

    def train_on_views(
        self,
        views: Any,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        strong_labeled: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Trains one step on views that are already made.

        Args:
            views: What `make_views` returns.
            labels: int `(batch,)`, classes in 0..K-1 of the labeled images.
            positions: As for `compute_losses`.
            strong_labeled: What `make_strong_labeled_views` returns. If it is None, parts that ask
                for it learn from the weak views of the labeled images alone.
            belongs: float `(mu * batch,)`, 0 for the unlabeled images that belong to no class,
                else 1, for a learner with an open set.

        Returns:
            The `StepOutcome`.
        """
        given = {
            "labels": labels,
            "positions": positions,
            "strong_labeled": strong_labeled,
            "belongs": belongs,
        }
        given = {name: value for name, value in given.items() if value is not None}
        outcome, gradient = self._losses_and_gradient(views, given)
        # All replicas have equally many rows: the mean of their gradients is that of the batch.
        gradient = replicas.mean(gradient)
        outcome = outcome._replace(gradient_norm=tf.linalg.global_norm(gradient))
        if belongs is not None:
            outcome = outcome.of_known_images(belongs)
        self.remember(outcome)
        variables = self.trainable_variables
        factor = tf.constant(0.0)
        if self.decayed == "state":
            factor = self.weight_decay * rate_of(self.optimizer)
        decayed = weight_decay_rules.added(gradient, variables, self.weight_decay, self.decayed)
        apply_gradients(self.optimizer, decayed, variables)
        replicas.average(self._unsynchronized_statistics)
        decay = tf.constant(self.ema_decay)
        if self.ema_warmup:
            decay = decay_at(tf.convert_to_tensor(self.step) - self.first_step, self.ema_decay)
        if scales_losses(self.optimizer):  # it has skipped gradients that are not finite
            finite = tf.math.is_finite(outcome.gradient_norm)
            decay, factor = tf.where(finite, decay, 1.0), tf.where(finite, factor, 0.0)
        self.network.update_average(decay, self.average_statistics)
        if self.decayed == "state":
            weight_decay_rules.shrink(self.network.weights, factor)
        self.step.assign_add(1)
        return outcome

    @property
    def needs_positions(self) -> bool:
        """Whether batches must contain the positions of their unlabeled images."""
        parts = (self.pseudo_labeler, self.threshold, self.balanced_head)
        return any(part is not None and "positions" in part.asks_for for part in parts)

    @property
    def needs_strong_labeled(self) -> bool:
        """Whether a part asks for strong views of the labeled images."""
        asks = () if self.pseudo_labeler is None else self.pseudo_labeler.asks_for
        return "strong_labeled" in asks or self.needs_averaged_features

    @property
    def batch_arguments(self) -> dict[str, bool]:
        """What the learner asks of `daso_tf.data.training_batches`, as its arguments."""
        return {
            "with_positions": self.needs_positions,
            "class_balanced": "class_balanced_batches" in self.asks_for,
            "labeled_alone": self.labeled_alone,
        }

    # Keras -----------------------------------------------------------------------------------

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains; arguments and result as `keras.Model.fit`.

        Batches are those of `daso_tf.data.training_batches`, or any that look like them. Without a
        `first_step`, batches of `training_batches` start at the step of this learner: a loaded
        learner, a second `fit`, and `keras.callbacks.BackupAndRestore` continue where training
        stopped. A data set that is shorter than `steps_per_epoch` is repeated.

        Raises:
            ValueError: If an argument has no meaning here, or a batch is not as described; before
                the first step that would use it.
        """
        given = arguments_of("fit", args, kwargs)
        with self._guard(self._optional) as guard:
            return super().fit(**fitting.prepared(self, given, guard))

    def compile(
        self, *args: Any, jit_compile: bool | str | None = JIT_COMPILE_DEFAULT, **kwargs: Any
    ) -> None:
        """Configures training; see `Classifier.compile`."""
        reason = self.pseudo_labeler is not None and self.pseudo_labeler.refuses.get("xla")
        if reason and jit_compile is True:
            raise ValueError(f"The step cannot be compiled with jit_compile=True: {reason}.")
        super().compile(*args, jit_compile=jit_compile, **kwargs)

    @property
    def pseudo_label_statistics(self) -> dict[str, Any]:
        """Recall and precision per class of the `linear`, `semantic` and `final` pseudo-labels.

        They count since the start of the epoch. Empty where the learner makes no pseudo-labels.
        """
        return self._step_metrics.pseudo_labels

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this model."""
        serialize = keras.saving.serialize_keras_object
        parts = {
            name: getattr(self, name)
            for name in ("pseudo_labeler", "threshold", "balanced_head", "open_set")
            if name not in self.refuses
        }
        return {
            **super().get_config(),
            **{name: part and serialize(part) for name, part in parts.items()},
            **({} if self.pseudo_labeler is None else self._unlabeled_config()),
            "weight_decay": self.weight_decay,
            "decayed": self.decayed,
            "ema_decay": self.ema_decay,
            "ema_warmup": self.ema_warmup,
            "average_statistics": self.average_statistics,
            "supervised_loss": serialize(self.supervised_loss),
            "weak": serialize(self.weak),
            "seed": self.seed,
            "first_step": self.first_step,
            "microbatches": self.microbatches,
            "estimated_prior": self.answered_distribution is not None,
        }

    # Details ---------------------------------------------------------------------------------

    def _train_step(self, images: Any, labels: Any) -> dict[str, tf.Tensor]:
        parts = inputs.training_parts(images, labels)
        inputs.check_kinds(parts, self.num_classes, self.stored_features)
        labeled, unlabeled, positions = images if len(images) == 3 else (*images, None)
        labeled, unlabeled = inputs.raw(labeled), inputs.raw(unlabeled)
        labels, unlabeled_labels = labels if isinstance(labels, (tuple, list)) else (labels, None)
        seed = tf.stack([self.seed, tf.cast(self.step, tf.int32)])
        views = self.network.compiled_part(self.make_views)(labeled, unlabeled, seed)
        strong_labeled = None
        if self.needs_strong_labeled:
            make = self.network.compiled_part(self.make_strong_labeled_views)
            strong_labeled = make(labeled, seed)
        belongs = None
        if self.open_set is not None:
            unknown = self.open_set.is_unknown(self.unknown_scores(unlabeled))
            belongs = tf.where(unknown, 0.0, 1.0)
        outcome = self.train_on_views(views, labels, positions, strong_labeled, belongs)
        return step_logs(self, self._track(outcome, labels, unlabeled_labels))

    @property
    def _optional(self) -> tuple[str, ...]:
        """Images that a batch may lack."""
        return ("unlabeled images",) if self.labeled_alone else ()

    def _unlabeled_config(self) -> dict[str, Any]:
        return {"unlabeled_weight": self.unlabeled_weight, "ramp_steps": self.ramp_steps}

    def _losses_and_gradient(
        self, views: Any, given: dict[str, tf.Tensor]
    ) -> tuple[StepOutcome, list[tf.Tensor]]:
        variables, count = self.trainable_variables, self.microbatches
        if count == 1:
            return gradients.of_batch(
                lambda: self._computed(views, given), variables, self.optimizer
            )
        parts = self.cut_views(views, count), Learner.cut_views(self, given, count)
        return gradients.of_microbatches(
            self._computed,
            parts,
            count,
            variables,
            self.optimizer,
        )

    def _computed(self, views: Any, given: dict[str, tf.Tensor]) -> StepOutcome:
        """Computes the losses; layers of the encoder may draw from the seed of the step."""
        with draws.of_step(self.draw_seed(tf.convert_to_tensor(self.step))):
            return self.compute_losses(views, **given)

    def _track(
        self, outcome: StepOutcome, labels: tf.Tensor, unlabeled_labels: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Updates the metrics of training and returns their values by name."""
        logs = self._step_metrics.update(outcome, unlabeled_labels, scales_losses(self.optimizer))
        self.compute_metrics(None, labels, tf.nn.softmax(outcome.labeled_logits), None)
        for metric in self.user_metrics:
            result = metric.result()
            logs.update(result if isinstance(result, dict) else {metric.name: result})
        return logs

    @property
    def _unsynchronized_statistics(self) -> list[tf.Variable]:
        """Running statistics that each replica of a distributed step updates by its own rows."""
        alone = [norm for norm in self._batch_norms() if not norm.synchronized]
        return [weight for norm in alone for weight in (norm.moving_mean, norm.moving_variance)]

    def _check_replicas(self) -> None:
        super()._check_replicas()
        if self.microbatches > 1:
            raise ValueError(
                f"microbatches={self.microbatches} does not go with several replicas, which cannot "
                "exchange anything within a loop. More replicas need less memory each."
            )

    @staticmethod
    def _check_is_for(part: SupervisedLoss | BalancedHead | None, num_classes: int) -> None:
        counts = getattr(part, "labeled_counts", None)
        if counts is not None and len(counts) != num_classes:
            raise ValueError(
                f"{type(part).__name__} is for {len(counts)} classes, not {num_classes}."
            )


show_all_arguments(Learner, Classifier, hidden=frozenset())


def _check_is_of(data: SemiSupervisedData, num_classes: int) -> None:
    if data.num_classes != num_classes:
        raise ValueError(
            f"data has {data.num_classes} classes, but num_classes is {num_classes}. Give "
            "num_classes=data.num_classes."
        )


def _as_threshold(threshold: float | Threshold | None) -> Threshold | None:
    """Returns a threshold as it is, or a fixed one of a confidence."""
    if threshold is None or isinstance(threshold, Threshold):
        return threshold
    return FixedThreshold(checked_number("threshold", threshold, least=0, most=1))
