"""Replays recordings of single functions: one group of keys per function and case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from daso_tf.balance import ClassBalancedLoss, LDAMLoss, SupervisedLoss
from daso_tf.balance.class_balanced import class_balanced_weights
from daso_tf.commands.estimate_distribution import estimate_from
from daso_tf.commands.replay.comparison import (
    EXACTLY,
    FLOAT,
    NOT_JUDGED,
    Comparison,
    Result,
    UnknownRecordingError,
    refined_tolerance,
)
from daso_tf.learners import mixing
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    DistributionAlignment,
    TemplateMatchingPseudoLabeler,
)
from daso_tf.pseudo_labels.darp import refine, without_noise
from daso_tf.run.generations import alignment_temperature, select
from daso_tf.step import losses

Trace = Mapping[str, np.ndarray]

_MARGIN, _SCALE, _BETA = 0.5, 30, 0.999  # of the recorded LDAM
_ALPHA, _ROUNDS = 2.0, 10  # of the recorded DARP


def replay(trace: Trace) -> Result:
    """Replays a recording of single functions.

    Args:
        trace: The arrays of the recording by their keys; the part before the first slash names the
            function.

    Returns:
        The deviations by key.

    Raises:
        UnknownRecordingError: If a function is not known.
        KeyError: If an array is missing.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, value in trace.items():
        function, _, rest = key.partition("/")
        groups.setdefault(function, {})[rest] = value
    if unknown := groups.keys() - _FUNCTIONS.keys():
        raise UnknownRecordingError(
            f"there is no function for its keys {', '.join(sorted(unknown))}"
        )
    found = Comparison()
    for function, group in groups.items():
        if function == "built":  # its input is that of `ldam`
            group |= {f"ldam/{name}": value for name, value in groups["ldam"].items()}
        _FUNCTIONS[function](_Group(function, group, found))
    return Result("functions", found.quantities())


class _Group:
    """The arrays of one function.

    Args:
        function: Its name.
        arrays: Its arrays by the rest of their keys.
        found: Collects the deviations.
    """

    def __init__(self, function: str, arrays: Mapping[str, np.ndarray], found: Comparison):
        self.function, self.arrays, self.found = function, arrays, found

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def compare(self, key: str, ours: Any, tolerance: float | None = FLOAT) -> None:
        """Compares a value with the recorded one, where there is one."""
        if key in self.arrays:
            self.found.add(f"{self.function}/{key}", ours, self.arrays[key], tolerance)

    def cases(self, last: str) -> Iterator[str]:
        """Yields the cases that have an array of a name, in the order of the recording."""
        for key in self.arrays:
            case, _, name = key.rpartition("/")
            if name == last:
                yield case


def _darp(group: _Group) -> None:
    """DARP's removal of noise, and its refinement."""
    for case in group.cases("predictions"):
        predictions, counts = group[f"{case}/predictions"], group[f"{case}/counts"]
        group.compare(f"{case}/cleaned", without_noise(predictions, counts, _ALPHA))
        refined = refine(predictions, counts.tolist(), _ALPHA, _ROUNDS)
        group.compare(f"{case}/refined", refined, refined_tolerance(predictions))


def _estimate(group: _Group) -> None:
    """Estimated images of each class.

    The authors invert the confusion matrix and drop an estimate that has negative counts. The
    library has the non-negative solution, which is the same where theirs is not negative.
    """
    for case in group.cases("counts"):
        confusion, counts = estimate_from(
            _softmax(group[f"{case}/validation_logits"]),
            group[f"{case}/validation_labels"],
            _softmax(group[f"{case}/unlabeled_logits"]),
        )
        dropped = group[f"{case}/counts"].min() < 0
        group.compare(f"{case}/condition", np.linalg.cond(confusion))
        group.compare(f"{case}/counts", counts, NOT_JUDGED if dropped else FLOAT)


def _tmi(group: _Group) -> None:
    """USADTM's mutual information of three views."""
    for case in group.cases("value"):
        views = [tf.constant(group[f"{case}/logits{i}"], tf.float32) for i in range(3)]
        with tf.GradientTape() as tape:
            tape.watch(views)
            pairs = [(0, 1), (0, 2), (1, 2)]
            of_pairs = [losses.mutual_information(views[i], views[j]) for i, j in pairs]
            value = tf.add_n(of_pairs) / len(pairs)
        group.compare(f"{case}/value", value)
        for i, gradient in enumerate(tape.gradient(value, views)):
            group.compare(f"{case}/grad{i}", gradient)


def _ldam(group: _Group) -> None:
    """LDAM without and with the weights of the classes."""
    counts = group["counts"].tolist()
    group.compare("cb_weights", class_balanced_weights(counts, _BETA))
    for case, reweight_after in (("plain", 1), ("weighted", 0)):
        loss = LDAMLoss(counts, _MARGIN, _SCALE, reweight_after, _BETA)
        _compare_loss(group, case, loss, group["logits"], group["labels"])


def _built(group: _Group) -> None:
    """The supervised losses that the published trainer has before and after its switch."""
    counts = group["ldam/counts"].tolist()
    for case in group.cases("value"):
        if group.function + "/" + case in ("built/ldam/plain", "built/ldam/weighted"):
            continue
        loss = SupervisedLoss()
        if str(group[f"{case}/type"]) == "LDAMLoss":
            loss = LDAMLoss(counts, _MARGIN, _SCALE, reweight_after=0, beta=_BETA)
        elif case.startswith("cb") and case.endswith("late"):
            loss = ClassBalancedLoss(counts, _BETA)
        _compare_loss(group, case, loss, group["ldam/logits"], group["ldam/labels"])


def _compare_loss(
    group: _Group, case: str, loss: SupervisedLoss, logits: np.ndarray, labels: np.ndarray
) -> None:
    given = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = loss(tf.constant(labels), given, tf.constant(0))
    group.compare(f"{case}/value", value)
    group.compare(f"{case}/grad", tape.gradient(value, given))


def _crest(group: _Group) -> None:
    """The images that CReST adds to the labeled ones, and CReST+'s temperatures."""
    for case in group.cases("probabilities"):
        positions, labels = select(
            group[f"{case}/probabilities"], group[f"{case}/counts"], float(group[f"{case}/alpha"])
        )
        order = np.argsort(group[f"{case}/positions"])  # the authors go class by class
        for name, ours in (("positions", positions), ("labels", labels)):
            recorded = group[f"{case}/{name}"][order]
            group.found.add(f"{group.function}/{case}/{name}", ours, recorded, EXACTLY)
    recorded = group["temperatures"]
    count = len(recorded)
    temperatures = [alignment_temperature(g, count, float(recorded[-1])) for g in range(count)]
    group.compare("temperatures", temperatures)


def _template(group: _Group) -> None:
    """USADTM's two measures of the distance to each template."""
    prototypes = tf.constant(group["prototypes"], tf.float32)
    features = tf.constant(group["features"], tf.float32)
    labeler = TemplateMatchingPseudoLabeler(queue_size=1, pretrain_steps=0)
    labeler.build([(None, prototypes.shape[0]), (None, prototypes.shape[1])])
    labeler.observe(prototypes, tf.range(prototypes.shape[0]))
    group.compare("similarity", labeler.templates(features))
    group.compare("distance", labeler.distances(features))


def _align(group: _Group) -> None:
    """Several calls of one distribution alignment, each with its temperature."""
    alignment = DistributionAlignment(group["target"].tolist())
    for case in group.cases("in"):
        alignment.temperature = float(group[f"{case}/t"])
        given = tf.constant(group[f"{case}/in"], tf.float32)
        group.compare(f"{case}/out", alignment(given))


def _remix_crest(group: _Group) -> None:
    """The pseudo-labels of ReMixMatch with CReST+, of several batches one after another."""
    labeler = AlignedPseudoLabeler(group["counts"].tolist(), temperature=float(group["t"]))
    labeler.build([(None, len(group["counts"])), (None, None)])
    sharpening = float(group["sharpening"])
    for step, case in enumerate(group.cases("in")):
        given = tf.constant(group[f"{case}/in"], tf.float32)
        labels = mixing.sharpened_pseudo_labels(
            labeler, given, sharpening, features=given, step=tf.constant(step), positions=None
        )
        group.compare(f"{case}/out", labels.target)


def _softmax(logits: np.ndarray) -> np.ndarray:
    return tf.nn.softmax(tf.constant(logits, tf.float64)).numpy()


_FUNCTIONS: dict[str, Callable[[_Group], None]] = {
    "darp": _darp,
    "estimate": _estimate,
    "tmi": _tmi,
    "ldam": _ldam,
    "built": _built,
    "crest": _crest,
    "template": _template,
    "align": _align,
    "remix_crest": _remix_crest,
}
