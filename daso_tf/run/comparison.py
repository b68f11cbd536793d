"""Does unlabeled data help here? A run, its twin, and classifiers of features without steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from daso_tf.balance.logit_adjustment import log_prior
from daso_tf.data import BankedData, ImageFiles, Images, Rows, SemiSupervisedData
from daso_tf.learners import Learner
from daso_tf.run.finetuning import finetuned_of
from daso_tf.run.left_out import FOLDS, left_out
from daso_tf.run.prediction import Prediction
from daso_tf.run.results import scores
from daso_tf.run.twin import twin_of, twin_settings
from daso_tf.settings.build import build_learner
from daso_tf.settings.settings import Settings
from daso_tf.step import closed_forms
from daso_tf.step.calibration import THIRDS, thirds


class Comparison(NamedTuple):
    """What the unlabeled images of a run changed.

    Attributes:
        content: For `results.json`: the scores of the twin and of the closed forms by part, the
            changes by third of the classes, and the choice of the answer.
        learner: What `--answer` chooses: that of the run, fine-tuned if it is, its twin, or a
            closed form.
        data: The data of the run as this learner takes it.
    """

    content: dict[str, Any]
    learner: Learner
    data: SemiSupervisedData


def check_answer(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuses `--answer=auto` where nothing can choose.

    Args:
        settings: Those of the run, completed.
        data: Its data.

    Raises:
        ValueError: If there are neither validation images nor frozen features.
    """
    if settings.answer == "auto" and not settings.freeze_encoder and data.validation is None:
        raise ValueError(
            "--answer=auto needs validation images where the encoder is trained: set some aside "
            "with --validation_size, use data that has them, or choose --answer=run or labels_only."
        )


def is_compared(settings: Settings) -> bool:
    """Whether a run is compared: with its twin, and on a feature bank with closed forms.

    Args:
        settings: Those of the run, completed.
    """
    return settings.freeze_encoder or settings.compare_labels_only


def compare(
    settings: Settings,
    data: SemiSupervisedData,
    learner: Learner,
    strategy: tf.distribute.Strategy,
    before: dict[str, Any] | None = None,
) -> Comparison:
    """Compares a trained learner with its twin and, on a feature bank, with closed forms.

    Args:
        settings: Those of the run, completed.
        data: Its data.
        learner: What it has trained.
        strategy: The devices that predict.
        before: The content of an earlier comparison of the same step, whose cross-validation is
            used again.
    """
    twin = twin_of(settings, data, strategy)
    if twin is not None and learner.answered_distribution is not None:
        # Both answer for the same class distribution; the twin has never estimated one.
        twin.set_class_distribution(learner.answered_distribution.numpy())
    pictures, tuned = data, None
    if isinstance(data, BankedData) and settings.finetune_steps:
        pictures, tuned = data.pictures, finetuned_of(settings, data, learner)
    content: dict[str, Any] = {"step": int(learner.step.numpy()), "parts": {}}
    differences = {}
    for name in ("test", "validation"):
        images = getattr(data, name)
        if images is None:
            continue
        answers = {}
        if tuned is not None:
            answers["finetuned"] = _predictions(tuned, settings, getattr(pictures, name))
        if twin is not None:
            ours, theirs = (_predictions(model, settings, images) for model in (learner, twin))
            answers = {"run": ours, **answers, "labels_only": theirs}
            right, right_alone = ours == images.labels, theirs == images.labels
            counts = data.labeled_counts.tolist()
            differences[name] = changes(right, right_alone, images.labels, counts)
        if isinstance(data, BankedData):
            answers |= closed_forms.answers(data, images)
        content["parts"][name] = {
            of: scores(images.labels, answer, data.num_classes) for of, answer in answers.items()
        }
    content["changes"] = differences
    if twin is None and tuned is None and settings.answer == "run":
        return Comparison(content, learner, data)
    answer = _choice(settings, data, content, differences, before)
    if answer["exported"] == "run" and tuned is not None:
        answer["exported"] = _tuned_or_not(settings, content["parts"].get("validation"))
    content["answer"] = answer
    if answer["exported"] == "finetuned" and tuned is not None:
        return Comparison(content, tuned, pictures)
    if isinstance(data, BankedData) and answer["exported"] in closed_forms.LINEAR:
        closed_form = _closed_form(settings, data, answer["exported"], content["step"])
        return Comparison(content, closed_form, data)
    return Comparison(
        content, learner if twin is None or answer["exported"] == "run" else twin, data
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


def _tuned_or_not(settings: Settings, of_validation: dict[str, Any] | None) -> str:
    """Returns whether a run is exported as it was or fine-tuned, where it is chosen."""
    if settings.answer != "auto" or of_validation is None:
        return "finetuned"
    candidates = ("finetuned", "run")  # the first of equal ones
    return max(candidates, key=lambda name: of_validation[name]["balanced_accuracy"])


def _closed_form(settings: Settings, data: BankedData, name: str, step: int) -> Learner:
    """Returns a closed form as a learner without hidden layer, to be exported as any other.

    Args:
        settings: Those of the run, completed.
        data: Its feature bank.
        name: One of `closed_forms.LINEAR`.
        step: The step of the run, which the export is of.
    """
    one_layer = {"adapter": "none", "classifier": "linear", "classifier_weights": "random"}
    learner = build_learner(twin_settings(settings).replace(**one_layer), data)
    weights, bias = closed_forms.linear_form(name, data)
    # It treats all classes alike already; the learner will subtract this again.
    bias = bias + settings.test_logit_adjustment * log_prior(data.labeled_counts.tolist())
    for classifier in (learner.classifier, learner.ema_classifier):
        classifier.set_weights([weights, bias])
    learner.step.assign(step)
    return learner


def _choice(
    settings: Settings,
    data: SemiSupervisedData,
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
    assert isinstance(data, BankedData)  # see `check_answer`
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
    print(f"Training both {FOLDS} times on parts of the labeled images.", flush=True)
    predicted, places = left_out([settings, twin_settings(settings)], data)
    labels = data.labeled.labels[places]
    ours, theirs = (of.argmax(axis=1) == labels for of in predicted)
    found = changes(ours, theirs, labels, data.labeled_counts.tolist())
    return found.get("all", {"change": 0.0, "standard_error": 0.0})


def _predictions(
    learner: Learner, settings: Settings, images: Images | ImageFiles | Rows
) -> np.ndarray:
    return Prediction(learner, settings.evaluation_batch_size)(images).argmax(axis=1)


# ---- The table


EXPORTED = {
    "run": "this run",
    "finetuned": "this run, fine-tuned",
    "labels_only": "the twin that learned from labels only",
    **{name: f"{closed_forms.NAMES[name]} of the labeled images" for name in closed_forms.LINEAR},
}
_NAMES = {
    "run": "this run",
    "finetuned": "this run, fine-tuned",
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


def rows_of(
    content: dict[str, Any], part: str, labeled_counts: Sequence[int]
) -> list[tuple[str, ...]]:
    """Returns the rows of a comparison on one part, with the header as the first one.

    Args:
        content: That of a `Comparison`.
        part: One of `content["parts"]`, "test" or "validation".
        labeled_counts: Labeled images of each class.
    """
    rows: list[tuple[str, ...]] = [(f"{part}, recall in %", "all", *THIRDS)]
    for name, found in content["parts"][part].items():
        rows.append((_NAMES[name], *_by_third(found["recall"], labeled_counts)))
    if change := content["changes"].get(part):
        shown = (change.get(group) for group in ("all", *THIRDS))
        rows.append(("unlabeled images changed", *map(_signed, shown)))
    return rows


def _lines(content: dict[str, Any], labeled_counts: Sequence[int]) -> Iterator[str]:
    for part in content["parts"]:
        rows = rows_of(content, part, labeled_counts)
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
    exported = f"Exported: {EXPORTED[answer['exported']]}"
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
