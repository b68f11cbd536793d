"""What a report says in sentences: what was found, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from daso_tf.data.text import printable
from daso_tf.run.comparison import EXPORTED
from daso_tf.run.inspection.accuracy import Accuracy
from daso_tf.step.calibration import class_groups
from daso_tf.step.class_shares import ClassShares, Estimate
from daso_tf.step.closed_forms import LINEAR, NAMES

_POOR_CALIBRATION = 0.1  # expected calibration error
_MANY_UNKNOWN = 0.1  # share of the unlabeled pictures; at most 5 % should be, by default
_FEW = 10  # labeled pictures of a class
_CLEARLY = 0.02  # a difference of balanced accuracies


class Found(NamedTuple):
    """What was found out about the pictures of a run.

    Attributes:
        class_names: K names.
        labeled_counts: Labeled pictures of each class.
        unlabeled: Number of unlabeled pictures.
        unreadable: Number of those that could not be read.
        predicted: Unlabeled pictures that are predicted as each class.
        step: The step of the network.
        steps: The steps of the run.
        learner: The learner with its parts, such as "fixmatch + daso".
        held_out: What shares are calibrated on: "validation", or "labeled" for
            out-of-fold predictions.
        accuracy: How good the network is.
        shares: The estimated shares.
        unknown: Number of unlabeled pictures that look like no class; None without validation
            pictures, which tell how pictures of the classes look.
        rejected: Share of the validation pictures at the same limit.
        auroc: How well pictures of no class are told from test pictures; None where none are known.
        has_open_set: Whether the learner keeps pictures of no class out of what is taught.
        taught: Share of the unlabeled pictures that are taught; None where that is not known.
        suspected: Number of suspected wrong labels.
        copies: Number of copies across parts; None where they were not searched.
        is_frozen: Whether the features are those of a frozen encoder, which has learned no labels.
        uses_unlabeled: Whether the learner learns from unlabeled pictures.
        comparison: The content of the run's `daso_tf.run.comparison.Comparison`; None if there is
            none of this step.
    """

    class_names: Sequence[str]
    labeled_counts: Sequence[int]
    unlabeled: int
    unreadable: int
    predicted: np.ndarray
    step: int
    steps: int
    learner: str
    held_out: str
    accuracy: Accuracy
    shares: ClassShares
    unknown: int | None
    rejected: float
    auroc: float | None
    has_open_set: bool
    taught: float | None
    suspected: int
    copies: int | None
    is_frozen: bool
    uses_unlabeled: bool
    comparison: Mapping[str, Any] | None = None


_HAS_LEARNED = " The network has learned all of these labels, so it is worse on new pictures."


def sentences(found: Found) -> Iterator[str]:
    """Yields what was found, one or two sentences at a time."""
    labeled = sum(found.labeled_counts)
    yield (
        f"{found.learner} was trained for {found.step:,} of {found.steps:,} steps on {labeled:,} "
        f"labeled pictures of {len(found.class_names)} classes and {found.unlabeled:,} unlabeled "
        "pictures."
    )
    accuracy = found.accuracy
    if accuracy.part == "labeled":
        yield (
            "There are no test or validation pictures. A linear head on the features of the "
            f"{'frozen encoder' if found.is_frozen else 'network'}, fitted to four fifths of the "
            f"labeled pictures, is right for {_with_interval(accuracy.accuracy)} of the last fifth "
            f"(balanced: {_with_interval(accuracy.balanced)})."
            + ("" if found.is_frozen else _HAS_LEARNED)
        )
    else:
        yield (
            f"Of {accuracy.images:,} {accuracy.part} pictures, {_with_interval(accuracy.accuracy)} "
            "are classified correctly; the mean over the classes is "
            f"{_with_interval(accuracy.balanced)}."
        )
    measured = {
        name: estimate for name, estimate in accuracy.groups.items() if not np.isnan(estimate.value)
    }
    if "head" in class_groups(found.labeled_counts):
        thirds = ", ".join(f"{name} {_with_interval(of)}" for name, of in measured.items())
        yield f"By thirds of the classes, from many to few labeled pictures: {thirds}."
    elif measured:
        worst = min(measured, key=lambda name: float(measured[name].value))
        yield (
            f"The class that is found least often is {_name(found, int(worst))}: "
            f"{_with_interval(measured[worst])} of its pictures."
        )
    yield from _effect_of_unlabeled(found)
    estimate = found.shares.em
    if estimate is None:
        yield (
            "How many unlabeled pictures each class has is not known: the estimate is off by "
            f"{_percent(found.shares.self_check)} even for pictures of known classes."
        )
    else:
        shares = ", ".join(
            f"{_name(found, k)} {_with_interval(Estimate(*(array[k] for array in estimate)))}"
            for k in np.argsort(-estimate.value)[:3]
        )
        yield f"Among the unlabeled pictures, the most frequent classes are probably {shares}."
    if found.taught is not None:
        yield f"{_percent(found.taught)} of the unlabeled pictures are sure enough to be taught."
    if found.unknown is not None:
        yield (
            f"{found.unknown:,} unlabeled pictures ({_percent(found.unknown / found.unlabeled)}) "
            f"look like none of the classes, at a limit that {100 * found.rejected:g} % of the "
            "validation pictures exceed."
        )
    if found.auroc is not None:
        yield (
            "A picture of no class has a higher unknown score than a test picture in "
            f"{_percent(found.auroc)} of all pairs."
        )
    if found.unreadable:
        yield f"{found.unreadable:,} unlabeled pictures could not be read and are left out."


def advice(found: Found) -> Iterator[str]:
    """Yields what to do next, the most important first."""
    if found.accuracy.part == "labeled":
        yield (
            "Set some labeled pictures aside, in a folder test or with --validation_size. Without "
            "them nobody knows how good the network is on new pictures."
        )
    if found.copies:
        yield (
            f"Remove the copies across parts ({found.copies:,}); --drop_copies leaves out the "
            "unlabeled ones."
        )
    if found.suspected:
        yield (
            f"Look at the suspected wrong labels ({found.suspected:,}), correct those that are "
            "wrong, and train again."
        )
    effect = _change(found)
    if effect and _verdict(effect[1]["all"]) == _HARMED and _exported(found) == "run":
        yield (
            "Export what learned from the labels alone (--answer=labels_only), or train another "
            "method: with this one, the unlabeled pictures did harm."
        )
    if better := _better_closed_form(found):
        name, balanced = better
        yield (
            f"A {NAMES[name]} of the labeled pictures, which needs no training, finds "
            f"{_percent(balanced)} (mean over the classes), clearly more than this network. Export "
            f"it with --answer={name}, or train fewer steps or with more regularization."
        )
    if found.unknown is not None and found.unknown > _MANY_UNKNOWN * found.unlabeled:
        look = "Look at the pictures that look like no class"
        if found.has_open_set:
            yield f"{look}. --open_set has kept them out of what is taught."
        else:
            yield (
                f"{look}, and take those of other things out of the unlabeled pictures, or train "
                "with --open_set."
            )
    recall = found.accuracy.recall.value
    few = [
        k
        for k in np.argsort(found.labeled_counts, kind="stable").tolist()
        if found.labeled_counts[k] < _FEW or recall[k] < np.nanmean(recall) - 0.15
    ]
    if few:
        names = ", ".join(_name(found, k) for k in few[:3])
        yield (
            f"Label more pictures of {names}: few are labeled, or few are found. "
            "daso-tf label-next lists the pictures whose labels would help most."
        )
    if found.accuracy.calibration["expected_calibration_error"] > _POOR_CALIBRATION:
        needed = "" if found.is_frozen else "with validation pictures, "
        yield (
            "Do not take the probabilities as they are: see the reliability diagram; "
            f"{needed}daso-tf export --calibrate=temperature corrects them."
        )
    if found.comparison is None and found.uses_unlabeled:
        yield (
            "To see what the unlabeled pictures have changed, repeat the command of the run with "
            "--compare_labels_only."
        )


_HELPED, _HARMED, _UNCLEAR = "they helped", "they did harm", "this is no clear change"


def _effect_of_unlabeled(found: Found) -> Iterator[str]:
    """Yields what the unlabeled pictures have changed, and what is exported instead of the run."""
    effect = _change(found)
    if effect:
        part, change = effect
        groups = ", ".join(
            f"{name} {_points(change[name])}"
            for name in class_groups(found.labeled_counts)
            if name in change
        )
        yield (
            "Compared with a twin that learned from the labels alone, the unlabeled pictures "
            f"changed the balanced accuracy on the {part} pictures by {_points(change['all'])} "
            f"points (standard error {100 * change['all']['standard_error']:.1f}): "
            f"{_verdict(change['all'])}." + (f" By thirds of the classes: {groups}." * bool(groups))
        )
    if _exported(found) != "run":
        yield f"What is exported, and described here, is {EXPORTED[_exported(found)]}."


def _change(found: Found) -> tuple[str, Mapping[str, Mapping[str, float]]] | None:
    """Returns what the unlabeled pictures have changed on the test or validation pictures."""
    changes = {} if found.comparison is None else found.comparison["changes"]
    return next(((part, changes[part]) for part in ("test", "validation") if part in changes), None)


def _exported(found: Found) -> str:
    return (
        "run" if not found.comparison else found.comparison.get("answer", {}).get("exported", "run")
    )


def _better_closed_form(found: Found) -> tuple[str, float] | None:
    """Returns the best classifier without training steps, and its balanced accuracy.

    None if it is not clearly better than the network, or if there is none.
    """
    parts = {} if found.comparison is None else found.comparison["parts"]
    of_part = parts.get(found.accuracy.part, {})
    balanced = {name: of_part[name]["balanced_accuracy"] for name in LINEAR if name in of_part}
    best = max(balanced, key=lambda name: balanced[name], default=None)
    if best is None or balanced[best] < found.accuracy.balanced.value + _CLEARLY:
        return None
    return best, balanced[best]


def _verdict(of_all: Mapping[str, float]) -> str:
    if abs(of_all["change"]) < 2 * of_all["standard_error"]:
        return _UNCLEAR
    return _HELPED if of_all["change"] > 0 else _HARMED


def _points(found: Mapping[str, float]) -> str:
    return f"{100 * found['change']:+.1f}"


def _name(found: Found, k: Any) -> str:
    return printable(found.class_names[k], 40)


def _with_interval(estimate: Estimate) -> str:
    return (
        f"{_percent(estimate.value)} ({100 * float(estimate.low):.0f} to "
        f"{100 * float(estimate.high):.0f})"
    )


def _percent(share: Any) -> str:
    return f"{100 * float(share):.1f} %"
