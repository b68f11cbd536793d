"""Replays recordings of single rules: thresholds, pseudo-labelers, and balanced classifiers.

Their inputs are logits or features instead of images. The objects of the library get these inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from daso_tf import learners
from daso_tf.balance import ABC, CoSSL
from daso_tf.balance.balanced_head import Features
from daso_tf.commands.replay.comparison import (
    EXACTLY,
    FLOAT,
    NOT_JUDGED,
    Comparison,
    Difference,
    Result,
    UnknownRecordingError,
)
from daso_tf.learners import FixMatchViews
from daso_tf.pseudo_labels import (
    DebiasedPseudoLabeler,
    DistributionAlignment,
    LinearPseudoLabeler,
    PseudoLabeler,
    PseudoLabels,
)
from daso_tf.step import losses
from daso_tf.step.outcome import Outputs
from daso_tf.thresholds import (
    ADSHThreshold,
    FixedThreshold,
    FlexMatchThreshold,
    FreeMatchThreshold,
    SAWWeight,
    SoftMatchWeight,
    Threshold,
)

Trace = Mapping[str, np.ndarray]

# Recordings that lack their inputs take them from this file of the same folder.
INPUTS = {"weights_unaligned": "softmatch_usb_m9.npz", "loss_authors": "abc.npz"}


def replay(trace: Trace, inputs: Trace | None = None) -> Result:
    """Replays a recording of a single rule.

    Args:
        trace: The arrays of the recording by their keys. The keys tell the method.
        inputs: The arrays of the recording that has the inputs, if this one lacks them.

    Returns:
        The deviations by key.

    Raises:
        UnknownRecordingError: If no rule of the library has these keys.
        KeyError: If an array is missing.
    """
    of: dict[str, np.ndarray] = {**(inputs or {}), **trace}
    for key, replay_one in (
        ("pool_logits", _adsh),
        ("weights_authors", _saw),
        ("aligned_daso_window128", _alignment),
        ("blended", _cossl),
        ("draws", _abc),
        ("weights_unaligned", _softmatch_weights),
        ("strong", _fixmatch),
    ):
        if key in of:
            return replay_one(trace, of)
    raise UnknownRecordingError("none of its keys belongs to a method of the library")


# ---- FixMatch with another threshold or pseudo-labeler ------------------------------------------


class FixMatchOfLogits(learners.FixMatch):
    """FixMatch whose views are logits. Its step computes everything that follows from them."""

    def __init__(
        self,
        num_classes: int,
        labeler: PseudoLabeler | None,
        threshold: float | Threshold,
        **arguments: Any,
    ):
        image = keras.Input((8, 8, 3))
        pixels = keras.layers.GlobalAveragePooling2D()(image)
        unused = keras.Model(image, keras.layers.Dense(num_classes)(pixels))
        arguments |= {"mean": (0.5,) * 3, "std": (0.25,) * 3}
        super().__init__(unused, num_classes, labeler, threshold=threshold, **arguments)

    def forward(self, *views: tf.Tensor) -> list[Outputs]:
        """Returns the views as they are."""
        return [Outputs(view, view) for view in views]


def _fixmatch(trace: Trace, of: Trace) -> Result:
    """Replays steps of FixMatch: what is taught, the losses, and their gradients."""
    method, labeler, threshold = _parts(of)
    classes = of["weak"].shape[-1]
    model = FixMatchOfLogits(classes, labeler, threshold)
    found = Comparison()
    graded = isinstance(threshold, SoftMatchWeight)  # its masks are weights
    for step in range(len(of["weak"])):
        views = [tf.constant(of[k][step], tf.float32) for k in FixMatchViews._fields]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(views)
            outcome = model.compute_losses(
                FixMatchViews(*views),
                tf.constant(of["labels"][step]),
                tf.constant(of["positions"][step]),
            )
            total = tf.add_n(list(outcome.losses.values()))
        model.remember(outcome)
        model.step.assign_add(1)
        labeled, _, strong = views
        labels = outcome.pseudo_labels
        assert labels is not None  # FixMatch always makes them
        values = {
            "mask": (outcome.weights, FLOAT if graded else EXACTLY),
            "pseudo_label": (labels.final, EXACTLY),
            "target": (labels.target, FLOAT),
            "supervised_loss": (outcome.losses["supervised_loss"], FLOAT),
            "consistency_loss": (outcome.losses["consistency_loss"], FLOAT),
            "fairness_loss": (outcome.losses.get("fairness_loss"), FLOAT),
            "grad_strong_logits": (tape.gradient(total, strong), FLOAT),
            "grad_labeled_logits": (tape.gradient(total, labeled), FLOAT),
            **{name: (value, FLOAT) for name, value in _memory(threshold, labeler).items()},
        }
        for name, (value, tolerance) in values.items():
            if name in trace:
                recorded = trace[name][step]
                if name == "fairness_loss":  # the recording has a constant for absent classes
                    recorded = recorded - trace["fairness_of_absent"][step]
                found.add(name, value, recorded, tolerance)
    if "remembered_after_last" in trace and isinstance(threshold, FlexMatchThreshold):
        remembered = np.asarray(threshold.labels)
        remembered = np.where(remembered == classes, -1, remembered)
        found.add("remembered_after_last", remembered, trace["remembered_after_last"], EXACTLY)
    return Result(method, found.quantities())


def _parts(of: Trace) -> tuple[str, PseudoLabeler, Threshold]:
    """Returns the method of a recording, its pseudo-labeler and its threshold."""
    setting = {name: value.item() for name, value in of.items() if value.ndim == 0}
    linear = LinearPseudoLabeler()
    if "fairness_weight" in setting:
        threshold: Threshold = FreeMatchThreshold(setting["momentum"], setting["fairness_weight"])
        return "freematch", linear, threshold
    if "deviations" in setting:
        aligns = "mean_prediction" in of
        threshold = SoftMatchWeight(setting["momentum"], setting["deviations"], alignment=aligns)
        return f"softmatch{'' if aligns else ', not aligned'}", linear, threshold
    if "strength" in setting:
        labeler = DebiasedPseudoLabeler(setting["strength"], setting["momentum"])
        return "debiaspl", labeler, FixedThreshold(setting["threshold"])
    if "status_after" in of:
        threshold = FlexMatchThreshold(setting["num_images"], setting["threshold"])
        return "flexmatch", linear, threshold
    return "fixmatch", linear, FixedThreshold(setting["threshold"])


def _memory(threshold: Threshold, labeler: PseudoLabeler) -> dict[str, Any]:
    """Returns what a threshold or a pseudo-labeler remembers after a step."""
    if isinstance(threshold, FreeMatchThreshold):
        names = ("mean_confidence", "mean_target", "histogram")
        return {name: getattr(threshold, name) for name in names}
    if isinstance(threshold, SoftMatchWeight):
        names = ("mean", "variance", *(("mean_prediction",) if threshold.alignment else ()))
        return {name: getattr(threshold, name) for name in names}
    if isinstance(threshold, FlexMatchThreshold):
        counts = np.asarray(threshold.counts())
        return {"status_after": counts[:-1] / counts.max()}
    if isinstance(labeler, DebiasedPseudoLabeler):
        return {"mean_prediction": labeler.mean_prediction}
    return {}


def _softmatch_weights(trace: Trace, of: Trace) -> Result:
    """Replays the weights of SoftMatch alone, with and without alignment."""
    found = Comparison()
    momentum, deviations = (float(of[name]) for name in ("momentum", "deviations"))
    for name, alignment, tolerance in (
        ("weights_unaligned", False, FLOAT),
        ("weights_aligned_to_labeled_predictions", True, NOT_JUDGED),
    ):
        if name in trace:
            weight = SoftMatchWeight(momentum, deviations, alignment=alignment)
            weights = [weight(_probabilities(logits)).weights for logits in of["weak"]]
            found.add(name, np.stack(weights), trace[name], tolerance)
    return Result("softmatch, not aligned", found.quantities())


# ---- Other rules --------------------------------------------------------------------------------


def _alignment(trace: Trace, of: Trace) -> Result:
    """Replays distribution alignment; other windows and rules are shown for comparison."""
    found = Comparison()
    for name in sorted(name for name in trace if name.startswith("aligned_")):
        window = re.search(r"_window(\d+)$", name)
        alignment = DistributionAlignment(
            of["target_distribution"].tolist(), window=int(window[1]) if window else 128
        )
        aligned = [alignment(_probabilities(logits)) for logits in of["weak"]]
        judged = name == "aligned_daso_window128"
        found.add(name, np.stack(aligned), trace[name], FLOAT if judged else NOT_JUDGED)
    return Result("distribution_alignment", found.quantities())


def _saw(trace: Trace, of: Trace) -> Result:
    """Replays the class weights of SAW for given counts of pseudo-labels."""
    found = Comparison()
    classes = of["counts"].shape[1]
    weights = []
    for counts in of["counts"]:
        weight = SAWWeight(int(of["num_images"]), epoch_steps=1)
        weight.build((None, classes))
        labels = np.full(weight.num_images, classes)
        labels[: counts.sum()] = np.repeat(np.arange(classes), counts)
        weight.labels.assign(labels)
        weights.append(weight.values_at(tf.constant(1)))  # the second epoch begins
    seen = of["counts"].sum(axis=1, keepdims=True) > 0
    # Where no image was seen, the authors divide 0 by 0.
    expected = np.where(seen, trace["weights_authors"], 1.0)
    found.add("weights_authors", np.stack(weights), expected, FLOAT)
    if "weights_usb" in trace:
        found.add("weights_usb", np.stack(weights), trace["weights_usb"], NOT_JUDGED)
    return Result("saw", found.quantities())


class ADSHOfUnsureHead(ADSHThreshold):
    """ADSH as published, where no image of the head class is confident.

    The threshold of every other class is then the confidence of its least confident image: the
    place in the order is -1, which is the last one in Python.
    """

    def new_values(self, counts: tf.Tensor) -> tf.Tensor:
        """Computes the thresholds of an epoch."""
        lowest = tf.math.unsorted_segment_min(
            tf.convert_to_tensor(self.confidences), self.labels, self.num_classes + 1
        )[:-1]
        reached = tf.minimum(lowest, self.confidence)
        thresholds = tf.where(counts > 0, reached, self.class_thresholds())
        head = self.labeled_counts.index(max(self.labeled_counts))
        return tf.where(tf.range(self.num_classes) == head, self.confidence, thresholds)


def _adsh(trace: Trace, of: Trace) -> Result:
    """Replays one update of ADSH's thresholds, and the step after it."""
    tau, head = float(of["threshold"]), int(np.argmax(of["labeled_counts"]))
    pool = np.asarray(_probabilities(of["pool_logits"]))
    sure = (pool.argmax(axis=1) == head) & (pool.max(axis=1) >= np.float32(tau))

    def compare(make: type[ADSHThreshold]) -> Comparison:
        threshold = make(of["labeled_counts"].tolist(), len(pool), tau, epoch_steps=1)
        threshold(pool, positions=tf.range(len(pool)), step=0)
        batch = _probabilities(of["batch_logits"])
        # The thresholds change when the third epoch begins.
        selection = threshold(batch, positions=tf.range(len(batch)), step=2)
        strong = tf.constant(of["strong_logits"], tf.float32)
        found = Comparison()
        for name, value, tolerance in (
            ("thresholds", threshold.class_thresholds(), FLOAT),
            ("label", selection.labels, EXACTLY),
            ("mask", selection.weights, EXACTLY),
            ("loss", losses.consistency(selection.labels, selection.weights, strong), FLOAT),
        ):
            for key in sorted(key for key in trace if key.startswith(f"{name}_")):
                judged = key.endswith("_authors")
                found.add(key, value, trace[key], tolerance if judged else NOT_JUDGED)
        return found

    ours = compare(ADSHThreshold).quantities()
    if sure.any():
        return Result("adsh", ours)
    applied = compare(ADSHOfUnsureHead).quantities()
    reason = (
        "where no image of the head class is confident, ADSH keeps its threshold for every class; "
        "the published code lowers that of every other class to its least confident image"
    )
    return Result("adsh", ours, _difference(reason, ours, applied))


def _abc(trace: Trace, of: Trace) -> Result:
    """Replays ABC's losses on features, and their gradients."""
    length = int(of["steps_per_epoch"])
    head = ABC(
        of["labeled_counts"].tolist(), int(of["epochs"]) * length, float(of["threshold"]), length
    )
    kernel = tf.constant(of["classifier"], tf.float32)
    of_two_views = ("loss_soft_two_views", "loss_authors")
    ours, applied = Comparison(), Comparison()
    for step in range(len(of["weak"])):
        labels, draws = tf.constant(of["labels"][step]), tf.constant(of["draws"][step], tf.float32)
        names = ("labeled", "weak", "strong", "strong_second")
        views = {name: tf.constant(of[name][step], tf.float32) for name in names}

        def loss(strong: str, views: Any = views, labels: Any = labels, draws: Any = draws) -> Any:
            features = Features(views["labeled"], views["weak"], views[strong])
            at = tf.constant(step)  # noqa: B023  # it is called in this step only
            return head.loss(_classifier(kernel), _linear_labels, features, labels, draws, at)

        with tf.GradientTape(persistent=True) as tape:
            tape.watch([kernel, views["labeled"], views["strong"]])
            one_view = loss("strong")
        values = {
            "loss_soft_one_view": (one_view, FLOAT),
            "grad_labeled_soft": (tape.gradient(one_view, views["labeled"]), FLOAT),
            "grad_strong_soft": (tape.gradient(one_view, views["strong"]), FLOAT),
            "grad_classifier_soft": (tape.gradient(one_view, kernel), FLOAT),
            "loss_soft_two_views": (one_view, FLOAT),
            "loss_authors": (one_view, FLOAT),
            "loss_usb": (one_view, NOT_JUDGED),
        }
        # A draw of 1 keeps no unlabeled image, so that the loss of the labeled ones remains.
        keeps_none = tf.concat([draws[: len(labels)], tf.ones(len(draws) - len(labels))], axis=0)
        two_views = one_view + loss("strong_second") - loss("strong", draws=keeps_none)
        for name, (value, tolerance) in values.items():
            if name in trace:
                ours.add(name, value, trace[name][step], tolerance)
                if name in of_two_views:
                    applied.add(name, two_views, trace[name][step], tolerance)
    found = ours.quantities()
    if not any(name in trace for name in of_two_views):
        return Result("abc", found)
    reason = "ABC teaches one strong view; the published script adds the loss of a second one"
    return Result("abc", found, _difference(reason, found, applied.quantities()))


def _cossl(trace: Trace, of: Trace) -> Result:
    """Replays CoSSL's blended features, and the loss of its classifier on them."""
    head = CoSSL(of["labeled_counts"].tolist(), teach_after=0, least_share=float(of["least_share"]))
    kernel = tf.constant(of["classifier"], tf.float32)
    found = Comparison()
    found.add("blend_rates", head.blend_rates, trace["blend_rates"], FLOAT)
    for step, labels in enumerate(of["labels"]):
        # The partner of a feature is the strong view in the same row.
        arguments = [
            tf.constant(of["labeled"][step], tf.float32),
            tf.constant(labels),
            tf.constant(of["strong"][step][: len(labels)], tf.float32),
            tf.constant(of["draws"][step], tf.float32),
        ]
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = head.loss_of_blended(_classifier(kernel), *arguments)
        for name, value in (
            ("blended", head.blend(*arguments)),
            ("loss_each_image_alike", loss),
            ("grad_classifier_each_image_alike", tape.gradient(loss, kernel)),
        ):
            if name in trace:
                found.add(name, value, trace[name][step], FLOAT)
    return Result("cossl", found.quantities())


# ---- Details ------------------------------------------------------------------------------------


def _probabilities(logits: np.ndarray) -> tf.Tensor:
    return tf.nn.softmax(tf.constant(logits, tf.float32))


def _classifier(kernel: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda features: tf.matmul(features, kernel)


def _linear_labels(probabilities: tf.Tensor) -> PseudoLabels:
    return LinearPseudoLabeler()(probabilities, probabilities, step=0)


def _difference(reason: str, ours: tuple, applied: tuple) -> Difference:
    """Returns a difference that may affect all quantities that were replayed with it applied."""
    names = {quantity.name for quantity in applied} & {quantity.name for quantity in ours}
    return Difference(reason, frozenset(names), applied)
