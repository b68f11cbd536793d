"""Replays recordings of training steps: the network before the first step, and all views.

The learner of the library is built from the configuration of the recording. Its step, the one that
training uses, gets the recorded views and random draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from daso_tf.balance.logit_adjustment import adjusted
from daso_tf.commands.replay import comparison, methods
from daso_tf.commands.replay.comparison import Comparison, Difference, Result
from daso_tf.encoders.pytorch_names import from_pytorch, pytorch_weights, to_pytorch
from daso_tf.learners import Learner, ReMixMatch, StepOutcome
from daso_tf.learners.mixing import MixUp
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    DARPPseudoLabeler,
    DASOPseudoLabeler,
    DistributionAlignment,
    TemplateMatchingPseudoLabeler,
)
from daso_tf.run.generations import select

# The library's names of the recorded losses.
_LOSSES = {
    "loss_cls": "supervised_loss",
    "loss_cons": "consistency_loss",
    "loss_assign": "alignment_loss",
    "loss_kl": "premixup_loss",
    "loss_rotation": "rotation_loss",
    "loss_mi": "mutual_information_loss",
    "loss_abc": "abc_loss",
}
# What else a step computes; the order is that of the printed table.
_TOLERANCES: dict[str, float] = {
    **dict.fromkeys(_LOSSES, comparison.LOSS),
    "grad_norm": comparison.GRADIENT_NORM,
    "lr": comparison.FLOAT,
    "ramp": comparison.FLOAT,
    "temperature": comparison.FLOAT,
    "linear_pl": comparison.EXACTLY,
    "semantic_pl": comparison.EXACTLY,
    "final_pl": comparison.EXACTLY,
    "final_confidence": comparison.SOFT,
    "target": comparison.SOFT,
    "mask": comparison.EXACTLY,
    "prototypes": comparison.SOFT,
    "pl_counts": comparison.EXACTLY,
    "alignment_mean": comparison.SOFT,
    "predictions": comparison.SOFT,
    "refined": comparison.REFINED,
    "abc_target": comparison.SOFT,
    "keep_labeled": comparison.FLOAT,
    "keep_unlabeled": comparison.FLOAT,
}
# What is not compared: inputs, and true classes for monitoring.
_INPUTS = {
    *("labels", "unlabeled_labels", "positions", "draws_labeled", "draws_unlabeled"),
    *("mixup_weight", "mixup_order"),
}


def replay(trace: Mapping[str, np.ndarray], jit_compile: bool = False) -> Result:
    """Replays recorded training steps.

    Args:
        trace: The arrays of the recording by their keys.
        jit_compile: Whether the step is compiled with XLA.

    Returns:
        The deviations by key. `final`, the weights after the last step, is relative to the distance
        that the recorded weights moved.

    Raises:
        KeyError: If an array or a setting is missing.
        ValueError: If its network is not a wide residual network with these names and shapes, or
            the library does not have its method.
    """
    config = json.loads(str(trace["config"]))
    method = methods.name_of(config)
    ours, unread = _compare(trace, config, jit_compile, as_recorded=False)
    reason = methods.difference_of(config)
    if reason is None:
        return Result(method, ours.quantities(), unread=unread)
    theirs, _ = _compare(trace, config, jit_compile, as_recorded=True)
    names = {quantity.name for quantity in ours.quantities()}
    if "generation_steps" in config:  # only generations after the first differ
        names = {name for name in names if name.startswith("generation")} - {
            name for name in names if name.startswith("generation1/")
        }
    applied = tuple(quantity for quantity in theirs.quantities() if quantity.name in names)
    difference = Difference(reason, frozenset(names), applied)
    return Result(method, ours.quantities(), difference, unread)


def _compare(
    trace: Mapping[str, np.ndarray], config: Mapping[str, Any], jit_compile: bool, as_recorded: bool
) -> tuple[Comparison, tuple[str, ...]]:
    """Runs all steps of a recording.

    Args:
        trace: As for `replay`.
        config: The configuration of the recording.
        jit_compile: As for `replay`.
        as_recorded: As for `methods.build`.

    Returns:
        The deviations, and the keys of steps that were not compared.
    """
    found, unread = Comparison(), set[str]()
    length = config.get("generation_steps", config["steps"])
    before = None
    for generation, first in enumerate(range(0, config["steps"], length)):
        model = methods.build(config, trace, generation, as_recorded)
        if before is not None and as_recorded:
            _continue_window(model, before)
        prefix = f"generation{generation + 1}/" if generation else ""
        run = _Run(trace, config, model, found, prefix, jit_compile)
        for step in range(first, min(first + length, config["steps"])):
            unread |= run.step(step)
        run.compare_generation(f"generation{generation + 1}")
        before = model
    run.compare_end()
    return found, tuple(sorted(unread))


class _Run:
    """The steps of one learner.

    Args:
        trace: The arrays of the recording by their keys.
        config: The configuration of the recording.
        model: The learner.
        found: Collects the deviations.
        prefix: What precedes the names of quantities.
        jit_compile: Whether the step is compiled with XLA, if the method can be.
    """

    def __init__(
        self,
        trace: Mapping[str, np.ndarray],
        config: Mapping[str, Any],
        model: Learner,
        found: Comparison,
        prefix: str,
        jit_compile: bool,
    ):
        self.trace, self.config, self.model = trace, config, model
        self.found, self.prefix = found, prefix
        self.method = methods.method_of(config)
        self.weights = _weights(model)
        _load_initial(model, self.weights, trace)
        refuses = model.pseudo_labeler.refuses if model.pseudo_labeler else {}
        self.train = tf.function(
            self._train, jit_compile=jit_compile and "xla" not in refuses, autograph=False
        )

    def step(self, number: int) -> set[str]:
        """Trains on the views of a step and compares what it computes.

        Returns:
            The recorded keys that are neither inputs nor compared.
        """
        recorded = _below(self.trace, f"step{number:03d}/")
        before = self._before_step()
        draws = positions = None
        if "draws_labeled" in recorded:
            draws = np.concatenate([recorded["draws_labeled"], recorded["draws_unlabeled"]])
            draws = tf.constant(draws, tf.float32)
        if "positions" in recorded:
            positions = tf.constant(recorded["positions"])
        labels = tf.constant(recorded["labels"])
        outcome, computed = self.train(self._views(recorded), labels, positions, draws)
        values = {**before, **self._outcome(outcome), **self._memories(), **computed}
        compared = [name for name in _TOLERANCES if name in recorded and name in values]
        for name in compared:
            tolerance = _TOLERANCES[name]
            if name == "refined" or (name == "target" and self.method.pseudo_labeler == "darp"):
                predictions = recorded.get("predictions", self.trace["init_predictions"])
                tolerance = comparison.refined_tolerance(predictions)
            self.found.add(self.prefix + name, values[name], recorded[name], tolerance)
        structure = methods.VIEWS[self.method.learner]
        return recorded.keys() - compared - _INPUTS - {*getattr(structure, "_fields", ["labeled"])}

    def compare_generation(self, key: str) -> None:
        """Compares the end of a generation of self-training, where the recording has it."""
        recorded = _below(self.trace, f"{key}/")
        if "unlabeled_images" not in recorded:
            return
        logits = self.model.ema_logits(tf.constant(recorded["unlabeled_images"]))
        probabilities = tf.nn.softmax(logits).numpy()
        expected = recorded["ema_probabilities"]
        self.found.add(f"{key}/ema_probabilities", probabilities, expected, comparison.SOFT)
        counts, alpha = self.config["labeled_counts"], self.config["crest_alpha"]
        positions, labels = select(probabilities, counts, alpha)
        order = np.argsort(recorded["positions"])  # the authors go class by class
        for name, values in (("positions", positions), ("labels", labels)):
            self.found.add(f"{key}/{name}", values, recorded[name][order], comparison.EXACTLY)
        averages = _averages(self.model)
        self._compare_weights(f"{key}/ema", f"{key}/ema/", averages)

    def compare_end(self) -> None:
        """Compares weights and logits after the last step, where the recording has them."""
        self._compare_weights(f"{self.prefix}final", "final/", lambda variable: variable)
        recorded, model = _below(self.trace, "eval/"), self.model
        if "images" not in recorded:
            return
        images = tf.constant(recorded["images"])
        averaged = model.ema_logits(images)
        features = model.network.features(model.as_input(images), training=False)
        logits = {
            "ema_logits": averaged,
            "ema_logits_adjusted": adjusted(averaged, self.config["labeled_counts"]),
            # Without an average, what the library evaluates is the trained network.
            "logits": averaged if model.ema_decay == 0 else model.classifier(features),
        }
        for name, value in logits.items():
            if name in recorded:
                self.found.add(self.prefix + name, value, recorded[name], comparison.SOFT)

    def _train(
        self,
        views: Any,
        labels: tf.Tensor,
        positions: tf.Tensor | None,
        draws: tf.Tensor | None,
    ) -> tuple[StepOutcome, dict[str, tf.Tensor]]:
        notes = getattr(self.model, "recorded", None)
        if notes is not None:
            notes.draws = draws
        outcome = self.model.train_on_views(views, labels, positions)
        return outcome, {} if notes is None else notes.computed

    def _views(self, recorded: Mapping[str, np.ndarray]) -> Any:
        """Returns the views of a step as the learner takes them."""

        def view(name: str) -> Any:
            if name == "mixup":
                weight = tf.constant(recorded["mixup_weight"], tf.float32)
                return MixUp(weight, tf.constant(recorded["mixup_order"]))
            if name == "turns":
                return tf.constant(recorded["turns"])
            return self.model.as_input(tf.constant(recorded[name]))

        structure = methods.VIEWS[self.method.learner]
        if structure is None:
            return view("labeled")
        return structure(*map(view, structure._fields))

    def _before_step(self) -> dict[str, Any]:
        """Returns what is in force during a step."""
        model, labeler = self.model, self.model.pseudo_labeler
        # Keras 2.15 updates the optimizer's own rate only within a step.
        rate = methods.learning_rate(self.config)
        values: dict[str, Any] = {
            "lr": rate(model.optimizer.iterations) if callable(rate) else rate,
            "ramp": model.ramp_at(tf.convert_to_tensor(model.step)),
        }
        if isinstance(labeler, DASOPseudoLabeler):
            values["pl_counts"] = np.asarray(labeler.distribution.in_force)
        if isinstance(labeler, AlignedPseudoLabeler):
            values["temperature"] = labeler.alignment.temperature
        return values

    def _outcome(self, outcome: StepOutcome) -> dict[str, Any]:
        """Returns what a step computed, by the names in recordings."""
        losses = {name: outcome.losses.get(ours) for name, ours in _LOSSES.items()}
        values = {name: loss for name, loss in losses.items() if loss is not None}
        values["grad_norm"] = outcome.gradient_norm
        if (labels := outcome.pseudo_labels) is not None:
            values |= {
                "linear_pl": labels.linear,
                "semantic_pl": labels.semantic,
                "final_pl": labels.final,
                "final_confidence": labels.confidence,
                "target": labels.target,
            }
        if outcome.weights is not None:
            values["mask"] = outcome.weights
        return values

    def _memories(self) -> dict[str, Any]:
        """Returns what the learner remembers after a step."""
        labeler, values = self.model.pseudo_labeler, {}
        if isinstance(labeler, DASOPseudoLabeler):
            values["prototypes"] = labeler.prototype_classifier.prototypes()
        if isinstance(labeler, TemplateMatchingPseudoLabeler):
            values["prototypes"] = labeler.templates.prototypes()
        if isinstance(labeler, DARPPseudoLabeler):
            values |= {"predictions": labeler.predictions, "refined": labeler.refined}
        if isinstance(self.model, ReMixMatch) and self.model.distribution_alignment is not None:
            values["alignment_mean"] = mean_prediction(self.model.distribution_alignment)
        return values

    def _compare_weights(self, name: str, key: str, of: Callable[[tf.Variable], Any]) -> None:
        """Compares all trained weights, where the recording has them.

        Args:
            name: Name of the quantity.
            key: What precedes the names of the recorded weights.
            of: Returns what is compared for a variable of the trained network.
        """
        trained = {id(variable) for variable in self.model.trainable_variables}
        names = [
            weight
            for weight, variable in self.weights.items()
            if id(variable) in trained and key + weight in self.trace
        ]
        if names:
            self.found.add_weights(
                name,
                (
                    (
                        to_pytorch(np.asarray(of(self.weights[weight]))),
                        self.trace[key + weight],
                        self.trace[f"init/{weight}"],
                    )
                    for weight in names
                ),
            )


def _weights(model: Learner) -> dict[str, tf.Variable]:
    """Returns the weights of the trained network by their PyTorch names."""
    weights = pytorch_weights(model.encoder, model.classifier)
    if isinstance(model, ReMixMatch):
        weights["projection.projections.weight"] = model.rotation_head.kernel
        weights["projection.projections.bias"] = model.rotation_head.bias
    if model.balanced_head is not None:
        weights["abc_classifier.classifier.weight"] = model.balanced_classifier.kernel
        weights["abc_classifier.classifier.bias"] = model.balanced_classifier.bias
    return weights


def _load_initial(
    model: Learner, weights: Mapping[str, tf.Variable], trace: Mapping[str, np.ndarray]
) -> None:
    """Gives the network and its average the recorded initial weights."""
    recorded = _below(trace, "init/")
    if recorded.keys() != weights.keys():
        raise ValueError(
            "its network is another one. Only in the recording: "
            f"{sorted(recorded.keys() - weights.keys())}; only in the library's: "
            f"{sorted(weights.keys() - recorded.keys())}"
        )
    for name, variable in weights.items():
        variable.assign(from_pytorch(recorded[name]))
    for average, variable in zip(model.network.ema_weights, model.network.weights, strict=True):
        average.assign(variable)


def _averages(model: Learner) -> Callable[[tf.Variable], tf.Variable]:
    """Returns a function from the variables of the trained network to their averages."""
    pairs = zip(model.network.weights, model.network.ema_weights, strict=True)
    averages = {id(variable): average for variable, average in pairs}
    return lambda variable: averages[id(variable)]


def _continue_window(model: Learner, before: Learner) -> None:
    """Gives a generation of CReST+ the alignment window of the one before."""
    ours, theirs = model.pseudo_labeler, before.pseudo_labeler
    if isinstance(ours, AlignedPseudoLabeler) and isinstance(theirs, AlignedPseudoLabeler):
        ours.alignment.batch_means.assign(theirs.alignment.batch_means)
        ours.alignment.batches_seen.assign(theirs.alignment.batches_seen)


def mean_prediction(alignment: DistributionAlignment) -> np.ndarray:
    """Returns the mean of the batches in an alignment's window."""
    seen = min(int(np.asarray(alignment.batches_seen)), alignment.window)
    return np.sum(np.asarray(alignment.batch_means), axis=0) / seen


def _below(trace: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays whose keys have a prefix, without it."""
    return {key.removeprefix(prefix): trace[key] for key in trace if key.startswith(prefix)}
