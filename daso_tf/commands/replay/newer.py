"""Replays recordings of SimPro, ADELLO, ACR and CDMAD: of logits (`newer_logits`), or of a network.

Those of a network hold its initial weights and all views. The step of the library, the one that
training uses, gets these views.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from daso_tf import learners, optimizers
from daso_tf.balance import ACR
from daso_tf.balance.balanced_head import AveragedFeatures, Features
from daso_tf.commands.replay import newer_logits
from daso_tf.commands.replay.comparison import EXACTLY, FLOAT, Comparison, Result
from daso_tf.commands.replay.network import mean_prediction
from daso_tf.commands.replay.newer_logits import Config, Trace, of_acr, parts_of, positions_of
from daso_tf.encoders import wide_resnet
from daso_tf.encoders.batch_normalization import batch_norms_of
from daso_tf.encoders.pytorch_names import from_pytorch, pytorch_weights, to_pytorch
from daso_tf.learners import FixMatchTwoViews, FixMatchViews
from daso_tf.learners.mixing import MixUp
from daso_tf.learners.remixmatch import ReMixMatchViews
from daso_tf.pseudo_labels import ADELLOPseudoLabeler, CDMADPseudoLabeler, SimProPseudoLabeler
from daso_tf.step.outcome import StepOutcome


class _Tolerances(NamedTuple):
    """The tolerances of a method.

    Attributes:
        loss: Of losses.
        norm: Of the gradient's norm.
        soft: Of soft targets, class distributions and the logits of the blank image.
        logits: Of logits after the last step.
        statistics: Of running statistics after the last step.
        weights: Of weights after the last step.
    """

    loss: float
    norm: float
    soft: float
    logits: float
    statistics: float
    weights: float


METHODS = {
    "simpro": _Tolerances(2e-4, 2e-3, 2e-4, 2e-4, 1e-3, 5e-3),
    "adello": _Tolerances(2e-4, 2e-3, 2e-4, 2e-4, 1e-3, 5e-3),
    "acr": _Tolerances(1e-3, 5e-3, 1e-4, 1e-3, 1e-3, 5e-3),
    "cdmad_fixmatch": _Tolerances(1e-3, 5e-3, 1e-3, 1e-3, 2e-3, 1e-2),
    "cdmad_remixmatch": _Tolerances(1e-3, 5e-3, 3e-3, 2e-3, 5e-3, 1e-2),
}


def replay(trace: Trace, config: Config, jit_compile: bool = False) -> Result:
    """Replays a recording of one of the four methods.

    Args:
        trace: The arrays of the recording by their keys.
        config: Its configuration, whose `method` is one of `METHODS`.
        jit_compile: Whether the steps of a network are compiled with XLA.

    Returns:
        The deviations by key.

    Raises:
        KeyError: If an array or a setting is missing.
        ValueError: If the recording does not fit the library.
    """
    if "width" in config:
        return _Run(trace, config, jit_compile).result()
    return newer_logits.replay(trace, config)


class _Noting(learners.Learner):
    """A learner that notes what the recordings have in addition to the outcome of a step."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.noted = types.SimpleNamespace(values={})

    def blank_logits(self) -> tf.Tensor:
        """Notes the logits of the blank image."""
        bias = super().blank_logits()
        self.noted.values = {"bias_logits": bias[0]}
        return bias

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
        """Notes the predictions of both classifiers for the weak views."""
        if self.balanced_head is not None:
            balanced = tf.nn.softmax(self.balanced_classifier(features.weak))
            self.noted.values = {"weak_logits": weak_logits, "balanced": balanced}
        of_step = (features, labels, step, averaged, weak_logits, positions, second_strong)
        return super().balanced_losses(*of_step, belongs)


class _FixMatch(_Noting, learners.FixMatch):
    """FixMatch that notes it."""


class _ReMixMatch(_Noting, learners.ReMixMatch):
    """ReMixMatch that notes it."""


class _Run:
    """The steps of a recorded network.

    Args:
        trace: The arrays of the recording by their keys.
        config: The configuration of the recording.
        jit_compile: Whether the steps are compiled with XLA.
    """

    def __init__(self, trace: Trace, config: Config, jit_compile: bool):
        self.trace, self.config = trace, config
        self.allowed = METHODS[config["method"]]
        self.found, self.read = Comparison(), {"config"}
        self.model = _learner(config, trace)
        self.weights = _weights(self.model)
        # CDMAD's network always has a rotation head; FixMatch neither trains nor reads it.
        self.read |= {key for key in trace if "/rot." in key and "rot" not in self.model_heads}
        for name, variable in self.weights.items():
            variable.assign(from_pytorch(self._take(f"init/{name}")))
        network = self.model.network
        for average, variable in zip(network.ema_weights, network.weights, strict=True):
            average.assign(variable)
        self.train = tf.function(self._train, jit_compile=jit_compile, autograph=False)

    @property
    def model_heads(self) -> set[str]:
        """The names of the heads of the learner, in addition to the classifier."""
        return {name.partition(".")[0] for name in self.weights}

    def result(self) -> Result:
        """Computes all steps and compares them."""
        steps = {key.partition("/")[0] for key in self.trace if key.startswith("step")}
        for step in range(len(steps)):
            self._step(step)
        self._end(len(steps))
        unread = tuple(sorted(set(self.trace) - self.read))
        return Result(self.config["method"], self.found.quantities(), unread=unread)

    def _take(self, key: str) -> np.ndarray:
        self.read.add(key)
        return self.trace[key]

    def _compare(self, name: str, value: Any, key: str, tolerance: float) -> None:
        if key in self.trace:
            self.found.add(name, value, self._take(key), tolerance)

    def _train(self, views: Any, labels: tf.Tensor, positions: Any, strong_labeled: Any) -> Any:
        outcome = self.model.train_on_views(views, labels, positions, strong_labeled)
        return outcome, self.model.noted.values

    def _view(self, step: int, name: str) -> tf.Tensor | None:
        key = f"step{step:03d}/{name}"
        return self.model.as_input(tf.constant(self._take(key))) if key in self.trace else None

    def _step(self, step: int) -> None:
        prefix = f"step{step:03d}/"
        self.read |= {f"{prefix}unlabeled_labels", f"{prefix}lr"}
        before = self._in_force(step)
        labels = tf.constant(self._take(f"{prefix}labels"))
        positions = None
        if f"{prefix}is_unlabeled" in self.trace:
            positions = positions_of(self._take(f"{prefix}is_unlabeled") == 0)
        outcome, noted = self.train(
            self._views(step), labels, positions, self._view(step, "labeled_strong")
        )
        values = {**before, **self._computed(outcome, noted, positions, step)}
        for name, value in values.items():
            is_class = np.asarray(value).dtype == np.int64
            if name == "grad_norm":
                tolerance = self.allowed.norm
            elif name.startswith(("loss", "confidences")):
                tolerance = self.allowed.loss
            elif name in ("alpha", "weight_u", "debias"):
                tolerance = FLOAT
            else:
                exact = is_class or name.startswith("mask")
                tolerance = EXACTLY if exact else self.allowed.soft
            if name in self.weights_of_losses:  # the recording has the loss without its weight
                key = f"{prefix}{name}"
                if key in self.trace:
                    recorded = self._take(key) * self._weight(name, step)
                    self.found.add(name, value, recorded, tolerance)
                continue
            self._compare(name, value, f"{prefix}{name}", tolerance)

    def _weight(self, name: str, step: int) -> float:
        """Returns the weight of a loss in a step."""
        weight, ramps = self.weights_of_losses[name]
        return weight * (float(self.model.ramp_at(tf.constant(step))) if ramps else 1.0)

    @property
    def weights_of_losses(self) -> dict[str, tuple[float, bool]]:
        """The weight of each loss, and whether it grows; without those of weight 1."""
        model = self.model
        if not isinstance(model, learners.ReMixMatch):
            return {}
        return {
            "loss_u": (model.unlabeled_weight, True),
            "loss_ent": (model.premixup_weight, True),
            "loss_rot": (model.rotation_weight, False),
        }

    def _views(self, step: int) -> Any:
        names = ("labeled", "labeled_weak", "weak", "strong", "strong2")
        views: list[Any] = [v for name in names if (v := self._view(step, name)) is not None]
        if self.config["method"] == "cdmad_remixmatch":
            prefix = f"step{step:03d}/"
            weight = tf.constant(self._take(f"{prefix}mix_weight"), tf.float32)
            mixup = MixUp(weight, tf.constant(self._take(f"{prefix}mix_permutation")))
            turns = tf.constant(self._take(f"{prefix}rotation"))
            return ReMixMatchViews(*[*views, turns, mixup])
        return FixMatchViews(*views) if len(views) == 3 else FixMatchTwoViews(*views)

    def _in_force(self, step: int) -> dict[str, Any]:
        """Returns what is in force during a step."""
        labeler = self.model.pseudo_labeler
        rate = self.model.optimizer.learning_rate
        rate = rate(step) if callable(rate) else rate
        self._compare("lr", rate, f"step{step:03d}/lr", self.allowed.soft)
        if isinstance(labeler, ADELLOPseudoLabeler):
            alpha = labeler.alpha_at(tf.constant(step))
            return {"alpha": alpha, "p_hat_used": np.array(labeler.prior)}
        return {}

    def _computed(
        self,
        outcome: StepOutcome,
        noted: Mapping[str, tf.Tensor],
        positions: tf.Tensor | None,
        step: int,
    ) -> dict[str, Any]:
        """Returns what a step computed, by the names of the recording."""
        labels, losses = outcome.pseudo_labels, outcome.losses
        assert labels is not None  # all four make them
        labeler, head = self.model.pseudo_labeler, self.model.balanced_head
        found = {
            "grad_norm": outcome.gradient_norm,
            "loss_x": losses["supervised_loss"],
            "loss_u": losses["consistency_loss"],
            "loss": tf.add_n(list(losses.values())),
            "targets_u": labels.target,
            **noted,
        }
        if outcome.weights is not None:
            found["mask"] = outcome.weights
        if isinstance(labeler, SimProPseudoLabeler):
            found |= {
                "pseudo_label": labels.target,
                "prior_u": labeler.prior_unlabeled,
                "prior_l": labeler.prior_labeled,
            }
        elif isinstance(labeler, ADELLOPseudoLabeler):
            found |= {
                "pseudo_label": labels.final,
                "p_hat_after": labeler.prior,
                "loss_sup": losses["supervised_loss"],
                "loss_unsup": losses["consistency_loss"],
                "loss_distill": losses["distillation_loss"],
            }
        elif isinstance(labeler, CDMADPseudoLabeler):
            found["debias"] = step // labeler.epoch_steps > labeler.debias_after
            if isinstance(self.model, learners.ReMixMatch):
                found |= {
                    "loss_rot": losses["rotation_loss"],
                    "loss_ent": losses["premixup_loss"],
                    "weight_u": self._weight("loss_u", step),
                }
                if labeler.aligned_counts is not None:
                    found["mean_prediction"] = mean_prediction(labeler.alignment)
        elif isinstance(head, ACR):
            weak, balanced = noted["weak_logits"], noted["balanced"]
            found |= of_acr(head, outcome, weak, balanced, positions, step)
            recorded = self.trace[f"step{step:03d}/now_mask"]
            present = np.asarray(found["now_mask"])
            self.found.add("now_mask, which", present > 0, recorded > 0, EXACTLY)
            predictions = [
                tf.nn.softmax(weak - head.adjustment(head.strength)),
                tf.nn.softmax(weak - head.adjustment(head.target_tau)),
                balanced,
                tf.nn.softmax(weak),
            ]
            found["confidences"] = tf.reduce_max(tf.stack(predictions), axis=-1)
            found["tau"] = head.strength
        return found

    def _end(self, steps: int) -> None:
        """Compares everything that the recording has of the time after the last step."""
        model, allowed = self.model, self.allowed
        if isinstance(labeler := model.pseudo_labeler, SimProPseudoLabeler):
            labeler.start(tf.constant(steps))
            self._compare("prior_u", labeler.prior_unlabeled, "prior_u_final", allowed.soft)
            self._compare("prior_l", labeler.prior_labeled, "prior_l_final", allowed.soft)
        self.read.add("eval/labels")
        images = tf.constant(self._take("eval/images"))
        of_average = model.network.ema_features(model.as_input(images), training=False)
        blank = model.network.ema_features(model.blank_image, training=False)
        features = model.network.features(model.as_input(images), training=False)
        answers = model.ema_logits(images)
        debiases = "eval/ema_bias_logits" in self.trace
        for name, value in {
            "ema_logits": model.ema_classifier(of_average) if debiases else answers,
            "ema_logits_debiased": answers,
            "ema_bias_logits": model.ema_classifier(blank)[0],
            "ema_logits_standard": model.ema_classifier(of_average),
            "logits": model.classifier(features),
        }.items():
            self._compare(name, value, f"eval/{name}", allowed.logits)

        network = model.network
        pairs = zip(network.weights, network.ema_weights, strict=True)
        averages = {id(variable): average for variable, average in pairs}
        trained = {id(variable) for variable in model.trainable_variables}
        moved = []
        for name, variable in self.weights.items():
            final = self._take(f"final/{name}")
            value = to_pytorch(np.asarray(variable))
            if id(variable) in trained:
                moved.append((value, final, self.trace[f"init/{name}"]))
                continue
            kind = name.rpartition(".")[2]
            self.found.add(f"final {kind}", value, final, allowed.statistics)
            average = to_pytorch(np.asarray(averages[id(variable)]))
            self._compare(
                f"final averaged {kind}", average, f"final_ema/{name}", allowed.statistics
            )
        self.found.add_weights("final", moved, allowed.weights)


def _learner(config: Config, trace: Trace) -> Any:
    """Makes the compiled learner of a recorded network."""
    blocks = {name.split(".")[2] for name in trace if re.match(r"init/encoder\.unit1\.\d", name)}
    size = trace["step000/weak"].shape[1]
    encoder = wide_resnet(6 * len(blocks) + 4, config["width"], (size, size, 3))
    arguments: dict[str, Any] = {
        "mean": config["mean"],
        "std": config["std"],
        "ema_decay": config["ema_decay"],
        "ema_warmup": False,
    }
    if "adam" in config:
        beta_1, beta_2, epsilon = config["adam"]
        optimizer = optimizers.Adam(config["lr"], beta_1, beta_2, epsilon)
        arguments |= {"weight_decay": config["wd"], "decayed": "state"}
    else:
        rate = config["lr"]
        if config["method"] != "adello":
            rate = optimizers.Cosine(rate, config["total_steps"])
        optimizer = optimizers.SGD(rate, config["momentum"], config["nesterov"])
        arguments |= {
            "weight_decay": config["weight_decay"],
            "decayed": "kernels",
            "average_statistics": False,
        }
    parts = parts_of(config, config["labeled_counts"])
    make = _ReMixMatch if config["method"] == "cdmad_remixmatch" else _FixMatch
    model: Any = make(encoder, config["num_classes"], **parts, **arguments)
    model.compile(optimizer, jit_compile=False)
    for norm in batch_norms_of(model.encoder):
        norm.precise = True
    return model


def _weights(model: Any) -> dict[str, tf.Variable]:
    """Returns the weights of the trained network by the names of the recordings."""
    weights = pytorch_weights(model.encoder, model.classifier)
    heads = {}
    if model.balanced_head is not None:
        heads["classifier_b"] = model.balanced_classifier
    if isinstance(model, learners.ReMixMatch):
        heads["rot"] = model.rotation_head
    for name, head in heads.items():
        weights[f"{name}.classifier.weight"] = head.kernel
        weights[f"{name}.classifier.bias"] = head.bias
    return weights
