"""Compares the library with a recorded run of the authors' implementation.

    daso-tf replay TRACE.npz

A trace holds the initial network, the views of every step, and what the authors' code computed
from them. The command feeds the same views to the step that training uses and compares each
quantity.
"""

from __future__ import annotations

import json
import re

import keras
import numpy as np
import tensorflow as tf

import daso_tf
from daso_tf.balance import LogitAdjustedLoss
from daso_tf.commands import terminal
from daso_tf.encoders.pytorch_names import from_pytorch, pytorch_weights, to_pytorch
from daso_tf.learners import FixMatchViews
from daso_tf.settings.flag import switch
from daso_tf.settings.settings import Settings

# The largest allowed deviation: the largest absolute difference over all steps, divided by the
# largest absolute reference value. 0 requires equality.
TOLERANCES = {
    "loss_cls": 1e-3,
    "loss_cons": 1e-3,
    "loss_assign": 1e-3,
    "grad_norm": 5e-3,
    "linear_pl": 0.0,
    "semantic_pl": 0.0,
    "final_pl": 0.0,
    "final_confidence": 1e-3,
    "prototypes": 1e-3,
    "pl_counts": 0.0,
    "ema_logits": 1e-3,
    "final": 1e-2,
}


def replay(trace: dict[str, np.ndarray], jit_compile: bool = False) -> dict[str, float]:
    """Replays a trace through the learner and measures the deviations.

    Args:
        trace: The arrays of a trace file by their keys.
        jit_compile: Whether the step is compiled with XLA.

    Returns:
        The deviation of each quantity in the trace, by the names of `TOLERANCES`. It is relative
        to the largest reference value. For `final`, the parameters after the last step, it is
        relative to the distance that the reference moved, ||final - reference|| / ||reference -
        init||.

    Raises:
        KeyError: If an array or a setting is missing in the trace.
        ValueError: If its network is not a wide residual network with these names and shapes.
    """
    config = json.loads(str(trace["config"]))
    model = _model(config, trace)
    weights = pytorch_weights(model.encoder, model.classifier)
    _load_initial(model, weights, trace)
    step_function = tf.function(model.train_on_views, jit_compile=jit_compile)

    ours: dict[str, list] = {}
    reference: dict[str, list] = {}
    for step in range(config["steps"]):
        for quantity, value in _replay_step(model, step_function, trace, f"step{step:03d}").items():
            if (key := f"step{step:03d}/{quantity}") in trace:
                ours.setdefault(quantity, []).append(np.asarray(value))
                reference.setdefault(quantity, []).append(trace[key])
    ours["ema_logits"] = [model.ema_logits(tf.constant(trace["eval/images"])).numpy()]
    reference["ema_logits"] = [trace["eval/ema_logits"]]

    deviations = {name: _deviation(ours[name], reference[name]) for name in ours}
    deviations["final"] = _final_deviation(model, weights, trace)
    return {name: deviations[name] for name in TOLERANCES if name in deviations}


def _model(config: dict, trace: dict[str, np.ndarray]) -> daso_tf.DASO:
    """Builds the learner with the settings of the recorded run."""
    blocks = {name.split(".")[2] for name in trace if re.match(r"init/encoder\.unit1\.\d", name)}
    size = trace["step000/labeled"].shape[1]
    model = daso_tf.DASO(
        daso_tf.encoders.wide_resnet(6 * len(blocks) + 4, config["width"], (size, size, 3)),
        config["num_classes"],
        mean=config["mean"],
        std=config["std"],
        threshold=config["conf"],
        weight_decay=config["weight_decay"],
        ema_decay=config["ema_decay"],
        supervised_loss=(
            LogitAdjustedLoss(config["labeled_counts"], config["la_tau"])
            if config["la_tau"]
            else None
        ),
        queue_size=config["queue_size"],
        prototype_temperature=config["proto_temp"],
        distribution_temperature=config["dist_temp"],
        distribution_aware=config["dist_aware"],
        blend_weight=config["alpha"],
        alignment_weight=config["align_weight"],
        pretrain_steps=config["pretrain"],
        distribution_period=config["period"],
    )
    model.compile(
        keras.optimizers.SGD(config["lr"], momentum=config["momentum"], nesterov=config["nesterov"])
    )
    return model


def _load_initial(model: keras.Model, weights: dict, trace: dict[str, np.ndarray]) -> None:
    recorded = {key.removeprefix("init/") for key in trace if key.startswith("init/")}
    if recorded != weights.keys():
        raise ValueError(
            "The trace has another network. Only in the trace: "
            f"{sorted(recorded - weights.keys())}; "
            f"only in ours: {sorted(weights.keys() - recorded)}."
        )
    for name, variable in weights.items():
        variable.assign(from_pytorch(trace[f"init/{name}"]))
    model.ema_encoder.set_weights(model.encoder.get_weights())
    model.ema_classifier.set_weights(model.classifier.get_weights())


def _replay_step(model, step_function, trace: dict[str, np.ndarray], step: str) -> dict:
    """Trains on the views of one recorded step; returns its quantities by their names."""
    labeler = model.pseudo_labeler
    in_force = np.asarray(labeler.distribution.in_force)
    views = FixMatchViews(
        *(model.as_input(tf.constant(trace[f"{step}/{name}"])) for name in FixMatchViews._fields)
    )
    outcome = step_function(views, tf.constant(trace[f"{step}/labels"]))
    return {
        "loss_cls": outcome.losses["supervised_loss"],
        "loss_cons": outcome.losses["consistency_loss"],
        "loss_assign": outcome.losses["alignment_loss"],
        "grad_norm": outcome.gradient_norm,
        "linear_pl": outcome.pseudo_labels.linear,
        "semantic_pl": outcome.pseudo_labels.semantic,
        "final_pl": outcome.pseudo_labels.final,
        "final_confidence": outcome.pseudo_labels.confidence,
        "prototypes": labeler.prototype_classifier.prototypes(),
        "pl_counts": in_force,
    }


def _deviation(ours: list[np.ndarray], reference: list[np.ndarray]) -> float:
    expected = np.stack(reference).astype(np.float64)
    difference = np.max(np.abs(np.stack(ours).astype(np.float64) - expected))
    scale = np.max(np.abs(expected))
    return float(difference if scale == 0 else difference / scale)


def _final_deviation(model, weights: dict, trace: dict[str, np.ndarray]) -> float:
    trainable = {id(variable) for variable in model.trainable_variables}
    difference = distance = 0.0
    for name, variable in weights.items():
        if id(variable) in trainable:
            reference = trace[f"final/{name}"].astype(np.float64)
            difference += np.sum((to_pytorch(np.asarray(variable)) - reference) ** 2)
            distance += np.sum((reference - trace[f"init/{name}"]) ** 2)
    return float(np.sqrt(difference / distance))


def main(settings: Settings, arguments: list[str]) -> int:
    """Replays one trace and prints a line for each quantity.

    Args:
        settings: The values of the flags.
        arguments: The path of the trace.

    Returns:
        The exit code.
    """
    if len(arguments) != 1:
        return terminal.fail("needs one trace: TRACE.npz")
    (path,) = arguments
    try:
        with np.load(path, allow_pickle=False) as archive:
            trace = dict(archive)
        deviations = replay(trace, jit_compile=settings.xla)
    except (OSError, ValueError, KeyError) as error:
        return terminal.fail(f"{path} cannot be replayed: {error}")
    exceeded = 0
    print(f"{'quantity':<18}{'deviation':>12}{'tolerance':>12}")
    for name, deviation in deviations.items():
        within = deviation <= TOLERANCES[name]  # False for nan too
        exceeded += not within
        tolerance = f"{TOLERANCES[name]:.0e}" if TOLERANCES[name] else "exactly"
        print(f"{name:<18}{deviation:>12.2e}{tolerance:>12}  {'ok' if within else 'EXCEEDED'}")
    return terminal.FAILED if exceeded else 0


COMMAND = terminal.Command(
    "replay",
    main,
    flags=(switch("xla", False, "Compile the step with XLA."),),
    usage="TRACE.npz",
    details="Exit code: 0 all quantities are within their tolerances, 1 one is not, 2 the trace\n"
    "cannot be replayed.",
)
