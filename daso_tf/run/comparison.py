"""Does unlabeled data help here? A run on a feature bank, its twin, and classifiers without steps.

The twin learns from the labeled images alone, with the same network and the same number of steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from daso_tf.data import BankedData, Rows, training_batches
from daso_tf.learners import Learner
from daso_tf.pseudo_labels.discriminant import folds
from daso_tf.run.checkpoints import CheckpointError, Checkpoints
from daso_tf.run.prediction import Prediction
from daso_tf.run.results import scores
from daso_tf.settings import methods
from daso_tf.settings.build import build_learner
from daso_tf.settings.flags import TRAIN
from daso_tf.settings.settings import Settings
from daso_tf.step import closed_forms
from daso_tf.step.calibration import THIRDS, thirds

ANSWERS = ("run", "labels_only", "auto")
_FOLDS = 5


class Comparison(NamedTuple):
    """What the unlabeled images of a run changed.

    Attributes:
        content: For `results.json`: the scores of the twin and of the closed forms by part, the
            changes by third of the classes, and the choice of the answer.
        twin: The learner of labeled images alone; None where the run itself is one.
        exports_twin: Whether `--answer` chooses the twin.
    """

    content: dict[str, Any]
    twin: Learner | None
    exports_twin: bool


def compare(
    settings: Settings,
    data: BankedData,
    learner: Learner,
    before: dict[str, Any] | None = None,
) -> Comparison:
    """Compares a trained learner with its twin and with closed forms.

    Args:
        settings: Those of the run, completed.
        data: Its feature bank.
        learner: What it has trained.
        before: The content of an earlier comparison of the same step, whose cross-validation is
            used again.
    """
    alone = not methods.uses_unlabeled_images(settings)
    twin = None if alone else _twin(settings, data)
    if twin is not None and learner.answered_distribution is not None:
        # Both answer for the same class distribution; the twin has never estimated one.
        twin.set_class_distribution(learner.answered_distribution.numpy())
    content: dict[str, Any] = {"step": int(learner.step.numpy()), "parts": {}}
    differences = {}
    for name in ("test", "validation"):
        images = getattr(data, name)
        if images is None:
            continue
        of_part = {
            f: _scores(images, p, data) for f, p in closed_forms.answers(data, images).items()
        }
        if twin is not None:
            ours, theirs = (_predictions(model, settings, images) for model in (learner, twin))
            own = {"run": _scores(images, ours, data), "labels_only": _scores(images, theirs, data)}
            of_part = own | of_part
            right, right_alone = ours == images.labels, theirs == images.labels
            counts = data.labeled_counts.tolist()
            differences[name] = changes(right, right_alone, images.labels, counts)
        content["parts"][name] = of_part
    content["changes"] = differences
    if twin is None:
        return Comparison(content, None, False)
    content["answer"] = _choice(settings, data, content, differences, before)
    return Comparison(content, twin, content["answer"]["exported"] == "labels_only")


def trained(settings: Settings, data: BankedData) -> Learner:
    """Trains a learner for all steps of its settings, without evaluations.

    Args:
        settings: Those of a training run, completed.
        data: A feature bank.
    """
    keras.utils.set_random_seed(settings.seed)  # of the initial weights
    learner = build_learner(settings, data)
    batches = training_batches(
        data,
        batch_size=settings.batch_size,
        unlabeled_ratio=settings.unlabeled_ratio,
        seed=settings.seed,
        first_step=0,
        steps=settings.steps,
        **learner.batch_arguments,
    )
    learner.fit(batches, steps_per_epoch=settings.steps, verbose=0, shuffle=False)
    return learner


def twin_settings(settings: Settings) -> Settings:
    """Returns the settings of the twin: those of the run, without unlabeled images.

    What has the default of the run's learner gets that of supervised learning.
    """

    def defaults(learner: str) -> dict[str, Any]:
        return methods.defaults(Settings({**settings, "learner": learner}, {"learner"}))

    ours, theirs = defaults(settings.learner), defaults("supervised")
    of_method = {
        name: theirs.get(name, TRAIN[name].default)
        for name, value in ours.items()
        if settings[name] == value
    }
    alone = {"learner": "supervised", "pseudo_labeler": "linear", "threshold": "fixed"}
    return settings.replace(
        **of_method
        | alone
        | {"balanced_head": "none", "model_dir": f"{settings.model_dir}/labels_only"}
    )


def changes(
    ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, labeled_counts: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Returns by how much the mean recall of each third of the classes differs.

    Args:
        ours: bool `(N,)`, which images one classifier gets right.
        theirs: bool `(N,)`, which ones the other.
        labels: int `(N,)`, classes of the images.
        labeled_counts: Labeled images of each class. The third with the most is the head.

    Returns:
        By the name of the third, and for `all` classes: the difference, and its standard error for
        other images of the same classes.

    Example:

    >>> labels = np.repeat([0, 1, 2], 4)
    >>> ours, theirs = labels >= 0, labels < 2
    >>> {name: found["change"] for name, found in changes(ours, theirs, labels, [9, 5, 1]).items()}
    {'all': 0.3333333333333333, 'head': 0.0, 'medium': 0.0, 'tail': 1.0}
    """
    difference = ours.astype(float) - theirs.astype(float)
    found = {}
    groups = {"all": list(range(len(labeled_counts))), **thirds(labeled_counts)}
    for name, classes in groups.items():
        of_classes = [difference[labels == k] for k in classes if (labels == k).any()]
        if not of_classes:
            continue
        variance = sum(of_class.var() / len(of_class) for of_class in of_classes)
        found[name] = {
            "change": float(np.mean([of_class.mean() for of_class in of_classes])),
            "standard_error": math.sqrt(variance) / len(of_classes),
        }
    return found


def _twin(settings: Settings, data: BankedData) -> Learner:
    """Returns the twin of a run, trained now or by an earlier call."""
    own = twin_settings(settings)
    checkpoints = Checkpoints(Path(own.model_dir) / "checkpoints")
    if own.steps in checkpoints.steps():
        keras.utils.set_random_seed(own.seed)
        learner = build_learner(own, data)
        try:
            checkpoints.restore(learner, own.steps)
            return learner
        except CheckpointError:
            pass  # it is damaged, or from other settings
    print(f"\nTraining the twin from labeled images alone, {own.steps:,} steps.", flush=True)
    learner = trained(own, data)
    checkpoints.save(learner)
    return learner


def _choice(
    settings: Settings,
    data: BankedData,
    content: dict[str, Any],
    differences: dict[str, Any],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """Returns which of the two is exported, and why."""
    if settings.answer != "auto":
        return {"asked": settings.answer, "exported": settings.answer}
    if "validation" in differences:
        found = differences["validation"]["all"]
        better = "run" if found["change"] >= 0 else "labels_only"
        return {"asked": "auto", "by": "validation", "exported": better, **found}
    earlier = (before or {}).get("answer", {})
    if earlier.get("by") == "out_of_fold" and before and before["step"] == content["step"]:
        found = {name: earlier[name] for name in ("change", "standard_error")}
    else:
        found = _out_of_fold(settings, data)
    # A rule that predicts the size of the gain is not known: this is a veto against a clear loss.
    clear_loss = found["change"] < -found["standard_error"]
    better = "labels_only" if clear_loss else "run"
    return {"asked": "auto", "by": "out_of_fold", "exported": better, **found}


def _out_of_fold(settings: Settings, data: BankedData) -> dict[str, float]:
    """Compares both on each fifth of the labeled images, trained on the others."""
    print(f"Training both {_FOLDS} times on parts of the labeled images.", flush=True)
    labels = data.labeled.labels
    fold = folds(labels, _FOLDS, settings.seed)
    right: dict[str, np.ndarray] = {
        name: np.zeros(len(labels), bool) for name in ("run", "labels_only")
    }
    tested = np.zeros(len(labels), bool)
    for number in range(_FOLDS):
        kept = fold != number
        absent = np.setdiff1d(labels, labels[kept])
        kept |= np.isin(labels, absent)  # every class needs a labeled image
        if kept.all() or kept.sum() < settings.batch_size:
            continue
        out = np.flatnonzero(~kept)
        part = dataclasses.replace(data, labeled=data.labeled.subset(np.flatnonzero(kept)))
        held_out = data.labeled.subset(out)
        for name, of_fold in (("run", settings), ("labels_only", twin_settings(settings))):
            predictions = _predictions(trained(of_fold, part), settings, held_out)
            right[name][out] = predictions == labels[out]
        tested[out] = True
    ours, theirs = right["run"][tested], right["labels_only"][tested]
    found = changes(ours, theirs, labels[tested], data.labeled_counts.tolist())
    return found.get("all", {"change": 0.0, "standard_error": 0.0})


def _predictions(learner: Learner, settings: Settings, images: Rows) -> np.ndarray:
    return Prediction(learner, settings.evaluation_batch_size)(images).argmax(axis=1)


def _scores(images: Rows, predictions: np.ndarray, data: BankedData) -> dict[str, Any]:
    return scores(images.labels, predictions, data.num_classes)


# ---- The table


_NAMES = {
    "run": "this run",
    "labels_only": "labels only",
    **closed_forms.NAMES,
}


def table(content: dict[str, Any], labeled_counts: Sequence[int]) -> str:
    """Writes a comparison as a table.

    Args:
        content: That of a `Comparison`.
        labeled_counts: Labeled images of each class.
    """
    return "\n".join(_lines(content, labeled_counts))


def _lines(content: dict[str, Any], labeled_counts: Sequence[int]) -> Iterator[str]:
    for part, of_part in content["parts"].items():
        rows: list[tuple[str, ...]] = [(f"{part}, recall in %", "all", *THIRDS)]
        for name, found in of_part.items():
            rows.append((_NAMES[name], *_by_third(found["recall"], labeled_counts)))
        if change := content["changes"].get(part):
            shown = (change.get(group) for group in ("all", *THIRDS))
            rows.append(("unlabeled images changed", *map(_signed, shown)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            cells = map(str.rjust, row[1:], widths[1:])
            line = "  ".join([row[0].ljust(widths[0]), *cells])
            yield line
            if not number:
                yield "-" * len(line)
        yield ""
    if answer := content.get("answer"):
        yield _why(answer)


def _by_third(recall: Sequence[float | None], labeled_counts: Sequence[int]) -> list[str]:
    known = np.array([np.nan if share is None else share for share in recall], float)
    groups = [list(range(len(known))), *thirds(labeled_counts).values()]
    return [
        "-" if np.isnan(of_group).all() else f"{100 * np.nanmean(of_group):.1f}"
        for of_group in (known[np.array(group, int)] for group in groups)
    ]


def _signed(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found['change']:+.1f} ± {100 * found['standard_error']:.1f}"


def _why(answer: dict[str, Any]) -> str:
    named = {"run": "this run", "labels_only": "the twin that learned from labels only"}
    exported = f"Exported: {named[answer['exported']]}"
    if answer["asked"] != "auto":
        return f"{exported} (--answer={answer['asked']})."
    measured = {
        "validation": "on the validation images",
        "out_of_fold": "on labeled images that were left out in turn",
    }[answer["by"]]
    return (
        f"{exported}. Unlabeled images changed the balanced accuracy {measured} by "
        f"{_signed(answer)} points (± standard error)."
    )
