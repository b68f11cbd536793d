"""From the configuration of a recording to the learner of the library that repeats it."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from daso_tf import learners, optimizers
from daso_tf.balance import (
    ABC,
    ClassBalancedLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SupervisedLoss,
)
from daso_tf.balance.balanced_head import AveragedFeatures, Features
from daso_tf.commands.replay.comparison import UnknownRecordingError
from daso_tf.encoders import wide_resnet
from daso_tf.learners.fixmatch import FixMatchViews
from daso_tf.learners.mean_teacher import MeanTeacherViews
from daso_tf.learners.mixmatch import MixMatchViews
from daso_tf.learners.pseudo_label import PseudoLabelViews
from daso_tf.learners.remixmatch import ReMixMatchViews
from daso_tf.learners.usadtm import USADTMViews
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    DARPPseudoLabeler,
    DASOPseudoLabeler,
    DistributionAlignment,
    LinearPseudoLabeler,
    PseudoLabeler,
    PseudoLabels,
)
from daso_tf.run.generations import alignment_temperature
from daso_tf.step.outcome import Outputs, StepOutcome

Config = Mapping[str, Any]
Trace = Mapping[str, np.ndarray]


class Method(NamedTuple):
    """A recorded method.

    Attributes:
        learner: Its learner, a key of `VIEWS`.
        pseudo_labeler: Its pseudo-labeler, a key of `_PSEUDO_LABELERS`; None where the learner has
            its own or none.
        abc: Whether it has the balanced head ABC.
    """

    learner: str
    pseudo_labeler: str | None = None
    abc: bool = False


# What `method` in the configuration stands for.
_METHODS = {
    "fixmatch": Method("fixmatch", "linear"),
    "daso": Method("fixmatch", "daso"),
    "fixmatch_abc": Method("fixmatch", "linear", abc=True),
    "daso_abc": Method("fixmatch", "daso", abc=True),
    "fixmatch_darp": Method("fixmatch", "darp"),
    "fixmatch_crest_plus": Method("fixmatch", "crest_plus"),
    "usadtm": Method("usadtm"),
    "supervised": Method("supervised"),
    "crt": Method("crt"),
}
# The structure of each learner's views; None where they are the labeled views alone.
VIEWS: dict[str, Any] = {
    "fixmatch": FixMatchViews,
    "usadtm": USADTMViews,
    "pseudo_label": PseudoLabelViews,
    "mean_teacher": MeanTeacherViews,
    "mixmatch": MixMatchViews,
    "remixmatch": ReMixMatchViews,
    "supervised": None,
    "crt": None,
}


def method_of(config: Config) -> Method:
    """Returns the method that a configuration is of.

    Args:
        config: Its `method` names a method, or its `learner` and `pseudo_labeler` name the parts.
            Without these keys it is FixMatch with DASO.

    Raises:
        UnknownRecordingError: If the library cannot repeat this method.
    """
    if "method" in config:
        if config["method"] not in _METHODS:
            raise UnknownRecordingError(
                f"the method {config['method']!r} is none of {', '.join(_METHODS)}"
            )
        return _METHODS[config["method"]]
    if "learner" not in config and "proto_temp" not in config:
        raise UnknownRecordingError(
            "its configuration has neither method nor learner, nor DASO's settings"
        )
    learner = config.get("learner", "fixmatch")
    if learner not in VIEWS:
        raise UnknownRecordingError(f"the learner {learner!r} is none of {', '.join(VIEWS)}")
    if VIEWS[learner] is None or learner == "usadtm":
        return Method(learner)
    labeler = config.get("pseudo_labeler", "daso")
    if labeler not in _PSEUDO_LABELERS:
        raise UnknownRecordingError(
            f"the pseudo-labeler {labeler!r} is none of {', '.join(_PSEUDO_LABELERS)}"
        )
    return Method(learner, labeler)


def name_of(config: Config) -> str:
    """Returns the learner of a configuration and what it is combined with."""
    method = method_of(config)
    parts = [method.learner]
    if method.pseudo_labeler not in (None, "linear"):
        parts.append(str(method.pseudo_labeler))
    if method.abc:
        parts.append("abc")
    if config.get("la_tau"):
        parts.append("logit_adjustment")
    if (loss := config.get("supervised_loss", "cross_entropy")) != "cross_entropy":
        parts.append(loss)
    return " + ".join(parts)


def difference_of(config: Config) -> str | None:
    """Returns what the library does otherwise than the recorded implementation, by design.

    Returns:
        The reason in one sentence; None where the library does the same.
    """
    method = method_of(config)
    if method.learner == "crt":
        return (
            "cRT keeps BatchNorm in inference mode; the published code normalizes by the batch and "
            "moves the running statistics of the frozen encoder"
        )
    if method.learner == "supervised" and _switch(config) > 0:
        late = {
            "ldam": "LDAM has its margins and its scale from the first step",
            "class_balanced": "the class-balanced loss has its weights from the first step",
        }
        if reason := late.get(config.get("supervised_loss", "")):
            return f"{reason}; the published code uses plain cross-entropy before step R - 1"
    if method.pseudo_labeler == "darp" and (config["darp_warmup"] + 1) % config["darp_period"]:
        return (
            "DARP refines as soon as it starts; the published code waits for a step whose number, "
            "counted from 1, the period divides, and until then teaches uniform labels"
        )
    if method.pseudo_labeler == "crest_plus" and config["steps"] > config["generation_steps"]:
        return (
            "CReST+ restarts its alignment window in each generation; the published code continues "
            "with the window of the generation before"
        )
    return None


def build(config: Config, trace: Trace, generation: int, as_recorded: bool) -> learners.Learner:
    """Builds and compiles the learner of a recording.

    Args:
        config: The configuration.
        trace: The arrays of the recording; they tell the size of the network.
        generation: Number of the generation of self-training, from 0.
        as_recorded: Whether to follow the recorded implementation where the library differs by
            design.

    Returns:
        The learner, with new weights.
    """
    method = method_of(config)
    blocks = {name.split(".")[2] for name in trace if re.match(r"init/encoder\.unit1\.\d", name)}
    size = trace["step000/labeled"].shape[1]
    encoder = wide_resnet(6 * len(blocks) + 4, config["width"], (size, size, 3))
    arguments: dict[str, Any] = {
        "mean": config["mean"],
        "std": config["std"],
        "weight_decay": config["weight_decay"],
        # The published supervised methods are evaluated without an average.
        "ema_decay": 0.0 if method.learner in ("supervised", "crt") else config["ema_decay"],
        "supervised_loss": _supervised_loss(config, as_recorded),
        "first_step": generation * config.get("generation_steps", 0),
    }
    if method.pseudo_labeler is not None:
        make = _PSEUDO_LABELERS[method.pseudo_labeler]
        arguments["pseudo_labeler"] = make(config, trace, generation, as_recorded)
        arguments |= {k: config[k] for k in ("unlabeled_weight", "ramp_steps") if k in config}
    make_learner, more = _learner(method, config, as_recorded)
    model = make_learner(encoder, config["num_classes"], **arguments, **more)
    rate = learning_rate(config)
    model.compile(
        optimizers.SGD(rate, momentum=config["momentum"], nesterov=config["nesterov"]),
        jit_compile=False,
    )
    start = config.get("start_iter", 0)
    model.step.assign(start + model.first_step)
    model.optimizer.iterations.assign(start)
    return model


def learning_rate(config: Config) -> Any:
    """Returns the learning rate of a recording, a number or a schedule."""
    return optimizers.learning_rate(
        config["lr"],
        config.get("warmup_steps", config.get("warmup_iters", 0)),
        config.get("lr_drops", config.get("lr_steps", ())),
        config.get("lr_drop", config.get("lr_gamma", 1.0)),
    )


def _learner(
    method: Method, config: Config, as_recorded: bool
) -> tuple[Callable[..., learners.Learner], dict[str, Any]]:
    """Returns the class of a method's learner, and the arguments that only this learner has."""
    mixed = ("sharpening_temperature", "mixup_beta")
    if method.learner == "fixmatch":
        arguments = {"threshold": config["conf"]}
        return (
            (ABCFixMatch, arguments | {"balanced_head": _abc(config)})
            if method.abc
            else (
                learners.FixMatch,
                arguments,
            )
        )
    if method.learner == "pseudo_label":
        return learners.PseudoLabel, {"threshold": config["conf"]}
    if method.learner == "mean_teacher":
        return learners.MeanTeacher, {}
    if method.learner == "mixmatch":
        return learners.MixMatch, {name: config[name] for name in mixed}
    if method.learner == "remixmatch":
        names = (*mixed, "premixup_weight", "rotation_weight")
        arguments = {name: config[name] for name in names}
        if config.get("distribution_alignment"):
            arguments["distribution_alignment"] = DistributionAlignment(config["labeled_counts"])
        return learners.ReMixMatch, arguments
    if method.learner == "usadtm":
        return OpenUSADTM, {
            "queue_size": config.get("queue_sizes", [5 * n for n in config["labeled_counts"]]),
            "pretrain_steps": config["pretrain"],
            "confidence_threshold": config["conf"],
            "mutual_information_weight": config["mi_weight"],
        }
    if method.learner == "crt" and as_recorded:
        return CRTWithBatchStatistics, {}
    return {"supervised": learners.Supervised, "crt": learners.ClassifierRetraining}[
        method.learner
    ], {}


def _switch(config: Config) -> int:
    """The step, from 0, at which the published supervised losses begin."""
    return config.get("reweight_iters", 1) - 1


def _supervised_loss(config: Config, as_recorded: bool) -> SupervisedLoss | None:
    counts, name = config["labeled_counts"], config.get("supervised_loss", "cross_entropy")
    if config.get("la_tau"):
        return LogitAdjustedLoss(counts, config["la_tau"])
    if name == "cross_entropy":
        return None
    switch = _switch(config)
    if name == "class_balanced":
        loss: SupervisedLoss = ClassBalancedLoss(counts, config["beta"])
    elif name == "ldam":
        loss = LDAMLoss(counts, config["max_margin"], config["scale"], switch, config["beta"])
    else:
        raise UnknownRecordingError(
            f"the supervised loss {name!r} is none of cross_entropy, class_balanced, ldam"
        )
    return PlainBefore(switch, loss) if as_recorded and switch > 0 else loss


def _abc(config: Config) -> ABC:
    length = config["abc_epoch_steps"]
    return ABC(config["labeled_counts"], config["abc_epochs"] * length, config["conf"], length)


def _daso(config: Config, trace: Trace, generation: int, as_recorded: bool) -> PseudoLabeler:
    return DASOPseudoLabeler(
        queue_size=config["queue_size"],
        prototype_temperature=config["proto_temp"],
        distribution_temperature=config["dist_temp"],
        distribution_aware=config["dist_aware"],
        blend_weight=config["alpha"],
        alignment_weight=config["align_weight"],
        pretrain_steps=config["pretrain"],
        distribution_period=config["period"],
    )


def _darp(config: Config, trace: Trace, generation: int, as_recorded: bool) -> PseudoLabeler:
    predictions = trace["init_predictions"]
    make = DARPInPhase if as_recorded else DARPPseudoLabeler
    labeler = make(
        config["darp_counts"],
        num_images=len(predictions),
        start_step=config["darp_warmup"],
        period=config["darp_period"],
        alpha=config["darp_alpha"],
        iterations=config["darp_iterations"],
    )
    labeler.build([(None, predictions.shape[1]), (None, None)])
    labeler.predictions.assign(predictions)
    return labeler


def _crest_plus(config: Config, trace: Trace, generation: int, as_recorded: bool) -> PseudoLabeler:
    generations = config["max_iter"] // config["generation_steps"]
    temperature = alignment_temperature(generation, generations, config["crest_temperature"])
    return AlignedPseudoLabeler(config["labeled_counts"], temperature)


_PSEUDO_LABELERS: dict[str, Callable[[Config, Trace, int, bool], PseudoLabeler]] = {
    "linear": lambda *_: LinearPseudoLabeler(),
    "daso": _daso,
    "darp": _darp,
    "crest_plus": _crest_plus,
}


# ---- Learners that take recorded draws, or show what else was recorded --------------------------


class ABCFixMatch(learners.FixMatch):
    """FixMatch with ABC, whose random numbers come from the recording."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.recorded = types.SimpleNamespace(draws=None, computed={})

    def balanced_draws(
        self, labeled: tf.Tensor, unlabeled: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        """Returns the recorded draws."""
        return self.recorded.draws

    def balanced_losses(
        self,
        features: Features,
        labels: tf.Tensor,
        step: tf.Tensor,
        averaged: AveragedFeatures | None = None,
        weak_logits: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        second_strong: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Computes the losses, and notes what the recording has in addition to them."""
        head = self.balanced_head
        assert isinstance(head, ABC)  # `_learner` gives no other
        probabilities = tf.nn.softmax(self.balanced_classifier(features.weak))
        pseudo_labels = self.pseudo_labeler(probabilities, features.weak, step=step)
        self.recorded.computed = {
            "abc_target": pseudo_labels.target,
            "keep_labeled": tf.gather(tf.constant(head.balanced_rates), labels),
            "keep_unlabeled": tf.gather(head.keep_rates(step), pseudo_labels.final),
        }
        of_step = (features, labels, step, averaged, weak_logits, positions, second_strong)
        return super().balanced_losses(*of_step, belongs)


class OpenUSADTM(learners.USADTM):
    """USADTM that notes the similarity of every image, whether or not the distance agrees."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.recorded = types.SimpleNamespace(weak=None, computed={})

    def forward(self, *views: tf.Tensor) -> list[Outputs]:
        """Notes the features of the weak views."""
        outputs = super().forward(*views)
        self.recorded.weak = outputs[USADTMViews._fields.index("weak")].features
        return outputs

    def compute_losses(
        self,
        views: USADTMViews,
        labels: tf.Tensor,
        positions: tf.Tensor | None = None,
        belongs: tf.Tensor | None = None,
    ) -> StepOutcome:
        """Computes the losses, and notes the largest similarity of each weak view."""
        outcome = super().compute_losses(views, labels, positions, belongs)
        similarity = tf.reduce_max(self.pseudo_labeler.templates(self.recorded.weak), axis=-1)
        self.recorded.computed = {"final_confidence": similarity}
        return outcome


# ---- Behavior of the published code that the library does not follow ---------------------------


class DARPInPhase(DARPPseudoLabeler):
    """DARP as published: it refines at steps whose number, from 1, the period divides.

    From `start_step` until the first such step it teaches uniform labels.
    """

    def __init__(
        self,
        class_distribution: Sequence[float],
        num_images: int,
        start_step: int,
        period: int,
        **kwargs: Any,
    ):
        self.uniform_from = start_step
        first = -(-(start_step + 1) // period) * period - 1
        super().__init__(class_distribution, num_images, first, period, **kwargs)

    def call(
        self,
        linear_target: tf.Tensor,
        features: tf.Tensor,
        step: tf.Tensor,
        positions: tf.Tensor | None = None,
    ) -> PseudoLabels:
        """Makes the pseudo-labels."""
        labels = super().call(linear_target, features, step, positions)
        step = tf.cast(step, tf.int64)
        waiting = (step >= self.uniform_from) & (step < self.start_step)
        uniform = tf.fill(tf.shape(labels.target), 1 / labels.target.shape[-1])
        target = tf.where(waiting, uniform, labels.target)
        return PseudoLabels.from_target(target, linear=labels.linear)


class PlainBefore(SupervisedLoss):
    """Plain cross-entropy before a step, another loss from it on.

    Args:
        switch: The step, from 0.
        loss: The loss from it on; if it defers its weights, they begin at the same step.
    """

    def __init__(self, switch: int, loss: SupervisedLoss):
        self.switch = switch
        self.loss = loss

    def class_losses(self, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Computes the loss of each image for each class."""
        plain, later = super().class_losses(logits, step), self.loss.class_losses(logits, step)
        return tf.where(tf.cast(step, tf.int64) < self.switch, plain, later)

    def class_weights(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the weight of each class in the mean."""
        return self.loss.class_weights(step)


class CRTWithBatchStatistics(learners.Supervised):
    """cRT as published: only the classifier learns, and BatchNorm is in training mode."""

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """The weights that the gradient reaches: those of the classifier."""
        return self.classifier.trainable_weights
