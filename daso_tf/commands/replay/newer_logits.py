"""Replays recordings of SimPro, ADELLO, ACR and CDMAD that hold logits instead of a network.

The step of the library's learner gets the logits as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from daso_tf.balance import ACR
from daso_tf.commands.replay.comparison import EXACTLY, FLOAT, Comparison, Result
from daso_tf.commands.replay.logit_level import FixMatchOfLogits
from daso_tf.learners import FixMatchTwoViews, FixMatchViews
from daso_tf.pseudo_labels import (
    ADELLOPseudoLabeler,
    CDMADPseudoLabeler,
    PseudoLabeler,
    SimProPseudoLabeler,
)
from daso_tf.step.outcome import Outputs, StepOutcome

Config = Mapping[str, Any]
Trace = Mapping[str, np.ndarray]

# The recordings tell which unlabeled images are labeled ones. The library knows it by the
# positions, of which those of labeled images are the last: here 0 is an unlabeled image, 1 is not.
_NUM_UNLABELED = 1
# The recorded names of FixMatch's views.
_VIEWS = ("logits_x", "logits_u_w", "logits_u_s", "logits_u_s1")
# What must be equal, by the names of the recordings.
_EXACT = {
    *("mask", "mask_standard", "mask_balanced", "mask_b", "distill_mask", "debias"),
    *("targets_u_h2", "targets_u_b"),
}
_DISTANCES = ("kl_con", "kl_uni", "kl_rev")


def replay(trace: Trace, config: Config) -> Result:
    """Replays a recording of logits.

    Args:
        trace: The arrays of the recording by their keys.
        config: Its configuration.

    Returns:
        The deviations by key.

    Raises:
        KeyError: If an array or a setting is missing.
        ValueError: If the recording does not fit the library.
    """
    return _Run(trace, config).result()


def parts_of(config: Config, counts: list[int]) -> dict[str, Any]:
    """Returns the arguments of the learner that make the method of a recording.

    Args:
        config: The configuration of the recording.
        counts: Labeled images of each class.
    """
    if config["method"] == "acr":
        head = ACR(
            counts,
            config["tau1"],
            config["tau12"],
            config["tau2"],
            config["threshold"],
            config["ema_u"],
            estimate_after=config["est_epoch"],
            epoch_steps=config["eval_step"],
            num_unlabeled=_NUM_UNLABELED,
        )
        return {"balanced_head": head, "threshold": config["threshold"]}
    if config["method"] == "simpro":
        labeler: PseudoLabeler = SimProPseudoLabeler(
            counts, config["scale_ratio"], config["tau"], config["ema_u"], config["eval_step"]
        )
    elif config["method"] == "adello":
        labeler = ADELLOPseudoLabeler(
            counts,
            config["total_steps"],
            config["alpha_min"],
            config["k"],
            config["ema_p"],
            config["distill_start"],
            published_temperature=bool(
                config.get("distill_T_from_prior") or config["distill_T"] is not None
            ),
            num_unlabeled=_NUM_UNLABELED if config.get("labeled_mask_used") else None,
        )
    else:
        aligned = None
        if config.get("align"):
            of_labeled, of_unlabeled = np.array(counts), sum(config["unlabeled_counts"])
            aligned = (of_labeled * (of_unlabeled / of_labeled.sum())).tolist()
        labeler = CDMADPseudoLabeler(config["debias_start"], config["eval_step"], aligned)
    if config["method"] == "cdmad_remixmatch":
        return {
            "pseudo_labeler": labeler,
            "sharpening_temperature": 1.0,
            "mixup_beta": config["mix_alpha"],
            "unlabeled_weight": config["lambda_u"],
            "premixup_weight": config["w_ent"],
            "rotation_weight": config["w_rot"],
            "ramp_steps": config["rampup"] * config["eval_step"],
        }
    return {"pseudo_labeler": labeler, "threshold": config.get("threshold", 0.0)}


def positions_of(labeled: np.ndarray) -> tf.Tensor:
    """Returns positions of unlabeled images, given which of them are labeled ones."""
    return tf.constant(labeled.astype(np.int64))


def of_acr(
    head: ACR,
    outcome: StepOutcome,
    weak: tf.Tensor,
    balanced: tf.Tensor,
    positions: tf.Tensor | None,
    step: int,
) -> dict[str, Any]:
    """Returns what ACR computed in a step, by the names of the recordings.

    Args:
        head: The head, after the step.
        outcome: That of the step.
        weak: Logits of the weak views, by the first classifier.
        balanced: Probabilities of the weak views, by the balanced classifier.
        positions: Positions of the unlabeled images.
        step: The number of the step.
    """
    labels, losses = outcome.pseudo_labels, outcome.losses
    assert labels is not None  # FixMatch always makes them
    targets, mask = head.targets(weak, balanced)
    estimates = step // head.epoch_steps > head.estimate_after
    confident = tf.reduce_max(balanced, axis=-1) >= head.confidence_threshold
    return {
        "targets_u": labels.final,
        "targets_u_h2": targets,
        "targets_u_b": tf.argmax(balanced, axis=-1),
        "mask_standard": outcome.weights,
        "mask_balanced": mask,
        "mask_b": confident,
        "now_mask": head.presence(balanced, positions) * float(estimates),
        "u_py": head.prior_unlabeled,
        "count_KL": head.distances,
        "loss_x_b": losses["balanced_supervised_loss"],
        "loss_u_b": losses["balanced_consistency_loss"],
    }


class _LearnerOfLogits(FixMatchOfLogits):
    """FixMatch whose views are logits; with ACR, those of both classifiers side by side."""

    bias: Any = None

    def forward(self, *views: tf.Tensor) -> list[Outputs]:
        """Returns the views as they are."""
        classes = self.num_classes
        return [Outputs(view[:, -classes:], view[:, :classes]) for view in views]

    def blank_logits(self) -> tf.Tensor:
        """Returns the recorded logits of the blank image."""
        return self.bias


class _Run:
    """The steps of a recording of logits.

    Args:
        trace: The arrays of the recording by their keys.
        config: The configuration of the recording.
    """

    def __init__(self, trace: Trace, config: Config):
        self.trace, self.config = trace, config
        self.found = Comparison()
        self.read = {"config", "labels_u", "labeled_in_unlabeled", "py_counts", *_DISTANCES}
        counted = trace["py_counts"].tolist() if "py_counts" in trace else None
        self.counts: list[int] = counted or config["labeled_counts"]
        classes, parts = config["num_classes"], parts_of(config, self.counts)
        labeler = parts.pop("pseudo_labeler", None)
        self.model = _LearnerOfLogits(classes, labeler, **parts)
        if self.model.balanced_head is not None:  # its features are its logits
            self.model.balanced_classifier.set_weights([np.eye(classes), np.zeros(classes)])

    def result(self) -> Result:
        """Computes all steps and compares them."""
        steps = len(self.trace["labels"])
        for step in range(steps):
            self._step(step)
        self._compare_epoch(steps)
        frequencies = np.array(self.counts) / np.sum(self.counts)
        self._compare("p_data", frequencies)
        self._compare("py_con", frequencies)
        if isinstance(head := self.model.balanced_head, ACR):
            self._compare("adjustment_l12", head.adjustment(head.target_tau))
            self._compare("adjustment_l2", head.adjustment(head.loss_tau))
        unread = tuple(sorted(set(self.trace) - self.read))
        return Result(self.config["method"], self.found.quantities(), unread=unread)

    def _take(self, key: str, place: int | None = None) -> np.ndarray:
        self.read.add(key)
        return self.trace[key] if place is None else self.trace[key][place]

    def _compare(
        self, name: str, value: Any, place: int | None = None, tolerance: float = FLOAT
    ) -> None:
        """Compares a value with the recorded one of a step or an epoch, if there is one."""
        if name in self.trace and (place is None or place < len(self.trace[name])):
            self.found.add(name, value, self._take(name, place), tolerance)

    def _step(self, step: int) -> None:
        model, labeler = self.model, self.model.pseudo_labeler
        simpro = isinstance(labeler, SimProPseudoLabeler)
        names = ["logits_l_w" if simpro else "logits_x", *_VIEWS[1:]]
        names = [name for name in names if name in self.trace]
        all_names = [name for name in self.trace if name.startswith("logits")]
        logits = {name: tf.constant(self._take(name, step), tf.float32) for name in all_names}
        positions = None
        if "is_unlabeled" in self.trace:
            positions = positions_of(self._take("is_unlabeled", step) == 0)
        elif self.config.get("labeled_mask_used"):
            positions = positions_of(self._take("labeled_in_unlabeled", step))
        if "bias_logits" in self.trace:
            model.bias = tf.constant(self._take("bias_logits", step)[None], tf.float32)
        if simpro:
            self._compare_epoch(step)
        if isinstance(labeler, ADELLOPseudoLabeler):
            at = tf.constant(step)
            for_labeled, for_unlabeled = labeler.adjustments(at)
            self._compare("p_hat_used", labeler.prior, step)
            self._compare("alpha", labeler.alpha_at(at), step)
            self._compare("log_ratio_labeled", for_labeled, step)
            self._compare("log_ratio_unlabeled", for_unlabeled, step)

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(list(logits.values()))
            views = [logits[name] for name in names]
            if model.balanced_head is not None:
                views = [tf.concat([logits[k], logits[f"{k}_b"]], axis=1) for k in names]
            structure = FixMatchViews if len(views) == 3 else FixMatchTwoViews
            labels = tf.constant(self._take("labels", step))
            strong_labeled = logits.get("logits_l_s")
            outcome = model.compute_losses(structure(*views), labels, positions, strong_labeled)
            total = tf.add_n(list(outcome.losses.values()))
        model.remember(outcome)
        model.step.assign_add(1)
        self._compare("loss", total, step)
        for name, view in logits.items():
            gradient = tape.gradient(total, view, unconnected_gradients="zero")
            self._compare(name.replace("logits", "grad"), gradient, step)
        for name, value in self._computed(outcome, logits, positions, step).items():
            exact = name in _EXACT or np.asarray(value).dtype == np.int64  # classes
            self._compare(name, value, step, EXACTLY if exact else FLOAT)
        if model.balanced_head is not None:
            self._compare_epoch(step)

    def _compare_epoch(self, step: int) -> None:
        """Compares what is in force in an epoch, if one begins with a step."""
        labeler, head = self.model.pseudo_labeler, self.model.balanced_head
        epoch, within = divmod(step, self.config.get("eval_step", 1))
        if within:
            return
        if isinstance(labeler, SimProPseudoLabeler):
            labeler.start(tf.constant(step))
            labeled, unlabeled = labeler.prior_labeled, labeler.prior_unlabeled
            self._compare("epoch_estimated_dis", unlabeled, epoch)
            self._compare("epoch_adapt_dis", labeled, epoch)
            self._compare("epoch_adjustment_u", labeler.adjustment(unlabeled), epoch)
            self._compare("epoch_adjustment", labeler.adjustment(labeled), epoch)
        if isinstance(head, ACR):
            self._compare("epoch_tau", head.strength, epoch)
            self._compare("epoch_adjustment_l1", head.adjustment(head.strength), epoch)

    def _computed(
        self,
        outcome: StepOutcome,
        logits: Mapping[str, tf.Tensor],
        positions: tf.Tensor | None,
        step: int,
    ) -> dict[str, Any]:
        """Returns what a step computed, by the names of the recording."""
        labels, losses = outcome.pseudo_labels, outcome.losses
        assert labels is not None  # FixMatch always makes them
        labeler, head = self.model.pseudo_labeler, self.model.balanced_head
        found = {
            "mask": outcome.weights,
            "max_probs": labels.confidence,
            "loss_x": losses["supervised_loss"],
            "loss_u": losses["consistency_loss"],
        }
        if isinstance(labeler, SimProPseudoLabeler):
            adjustment = labeler.adjustment(labeler.prior_labeled)
            views = {"l": ("logits_l_w", "logits_l_s"), "u": ("logits_u_s", "logits_u_s1")}
            found |= {
                f"adjusted_{k}": tf.concat([logits[name] for name in names], axis=0) + adjustment
                for k, names in views.items()
            }
            found |= {
                "pseudo_label": labels.target,
                "count_labeled": labeler.labels_seen,
                "dis_unlabeled": labeler.labels_taught,
            }
        elif isinstance(labeler, ADELLOPseudoLabeler):
            found |= {
                "pseudo_label": labels.final,
                "probs_w": labels.target,
                "distill_mask": (1 - np.array(outcome.weights)) * (step >= labeler.distill_after),
                "distill_T": max(float(labeler.temperature), 1.0),
                "p_hat_after": labeler.prior,
                "loss_sup": losses["supervised_loss"],
                "loss_unsup": losses["consistency_loss"],
                "loss_distill": losses["distillation_loss"],
            }
        elif isinstance(labeler, CDMADPseudoLabeler):
            at, bias = tf.constant(step), self.model.bias
            found |= {
                "targets_u": labels.target,
                "adjusted_u_w": labeler.teaching_logits(logits["logits_u_w"], bias, at),
                "debias": step // labeler.epoch_steps > labeler.debias_after,
            }
        elif isinstance(head, ACR):
            weak, balanced = logits["logits_u_w"], tf.nn.softmax(logits["logits_u_w_b"])
            found |= of_acr(head, outcome, weak, balanced, positions, step)
            distances = np.array(head.anchor_distances(head.prior_unlabeled))
            for name, value in zip(_DISTANCES, distances, strict=True):
                if not np.isnan(self.trace[name][step]):
                    found[name] = value
            predictions = {
                "h2": tf.nn.softmax(weak - head.adjustment(head.target_tau)),
                "b": balanced,
                "t": tf.nn.softmax(weak),
            }
            for name, probabilities in predictions.items():
                found[f"max_probs_{name}"] = tf.reduce_max(probabilities, axis=-1)
        return found
