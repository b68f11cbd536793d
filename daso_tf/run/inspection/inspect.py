"""Writes the report of a run: tables of its pictures, class shares, and the page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from daso_tf.data import BankedData, DataError, SemiSupervisedData, reading
from daso_tf.data.copies import Copy
from daso_tf.data.identity import Identity
from daso_tf.learners import Learner
from daso_tf.open_set import OpenSet
from daso_tf.run.inspection.accuracy import measure
from daso_tf.run.inspection.answers import Answers, Network
from daso_tf.run.inspection.folds import Head, OutOfFold, out_of_fold, refitted, suspected
from daso_tf.run.inspection.neighbors import Neighbors
from daso_tf.run.inspection.page import write_page
from daso_tf.run.inspection.pictures import Pictures, Thumbnails
from daso_tf.run.inspection.sheets import Sheets
from daso_tf.run.inspection.summary import Found
from daso_tf.run.inspection.tables import write_labeled, write_unlabeled
from daso_tf.run.inspection.unknown import unknown_scores
from daso_tf.run.open_set import detector_of
from daso_tf.run.results import Results
from daso_tf.run.selected import selected
from daso_tf.settings.methods import name_of, uses_unlabeled_images
from daso_tf.settings.settings import Settings
from daso_tf.step.class_shares import ClassShares, Estimate, Predictions, estimate_class_shares

PAGE = "report.html"
OWN_PICTURES = ("image_folder", "image_list")


def check_reportable(model_dir: str | Path, data: SemiSupervisedData) -> None:
    """Refuses a report on a run without unlabeled pictures.

    Args:
        model_dir: The folder of the run.
        data: Its data.

    Raises:
        ValueError: If there are none.
    """
    if not len(data.unlabeled):
        raise ValueError(
            f"{model_dir} has no unlabeled pictures to report on. A report needs a run with "
            "unlabeled pictures: a folder `unlabeled`, rows without a label in the list, or "
            "--unlabeled_head of at least 1."
        )


def inspect(
    settings: Settings,
    data: SemiSupervisedData,
    identity: Identity,
    learner: Learner,
    results: Results,
    copies: Sequence[Copy] | None = None,
) -> Path:
    """Writes the report of a run into its folder.

    The files are `unlabeled` and `labeled`, each as `.csv` and `.jsonl`, the lists in `report/`,
    `report.html`, and the class shares in `results.json`.

    Args:
        settings: Those of the run, completed.
        data: Its data, as loaded.
        identity: What the data consists of.
        learner: On one device, in the state that is reported.
        results: The evaluations of the run, and what is known of its unlabeled pictures' effect.
        copies: The copies among all images that the run selected; None to search them.

    Returns:
        The page.

    Raises:
        DataError: If too many files cannot be read.
        OSError: If a file cannot be written.
    """
    folder = Path(settings.model_dir)
    with reading(data):
        found, sheets, note = _inspect(settings, data, identity, learner, folder, copies)
    found = found._replace(comparison=_comparison(settings, results, found.step))
    results.set_class_shares(_as_json(found.shares, found.step, found.held_out))
    write_page(folder / PAGE, settings, results, found, sheets, note)
    return folder / PAGE


def _inspect(
    settings: Settings,
    data: SemiSupervisedData,
    identity: Identity,
    learner: Learner,
    folder: Path,
    known_copies: Sequence[Copy] | None,
) -> tuple[Found, list, str]:
    names, num_classes = data.class_names, data.num_classes
    network = Network(learner, settings.evaluation_batch_size)

    answers = network.all_of(data.labeled)
    labeled = Pictures(data.labeled, identity.parts["labeled"], answers.positions)
    neighbors = Neighbors(answers.features, labeled.labels)
    of_labeled = out_of_fold(answers.given, labeled.labels, num_classes, settings.seed)
    seems = suspected(labeled.labels, of_labeled.probabilities)
    write_labeled(folder / "labeled", answers, of_labeled, seems, labeled, neighbors, names)

    validation = None if data.validation is None else network.all_of(data.validation)
    detector = detector_of(settings, data, learner)
    score, told = detector.score, detector.measured()
    unlabeled = Pictures(data.unlabeled, identity.parts["unlabeled"])
    seen = write_unlabeled(
        folder / "unlabeled",
        network,
        data.unlabeled,
        unlabeled,
        labeled,
        neighbors,
        names,
        score,
    )
    read = unlabeled.only(seen.places)

    rejects = score if learner.open_set is not None else None
    shares = _shares(data, answers, of_labeled, labeled.labels, validation, seen.sample, rejects)
    evaluated = _evaluated(data, network, validation, labeled.labels, of_labeled)
    copies, note = _copies(settings, known_copies)
    sheets = Sheets(folder, names, Thumbnails(settings.max_megapixels))
    made = [
        sheets.suspected_labels(labeled, seems, of_labeled, isinstance(data, BankedData)),
        sheets.most_unknown(read, seen),
        sheets.least_confident(read, seen),
        sheets.most_confident(read, seen),
        *([] if copies is None else [sheets.near_copies(copies, _root(settings))]),
    ]
    known, chooses = ~np.isnan(seen.weights), learner.threshold is not None
    found = Found(
        names,
        data.labeled_counts.tolist(),
        len(read),
        len(unlabeled) - len(read),
        np.bincount(seen.classes, minlength=num_classes),
        int(learner.step.numpy()),
        settings.steps,
        name_of(settings),
        "labeled" if validation is None else "validation",
        measure(*evaluated, data.labeled_counts.tolist()),
        shares,
        int(score.is_unknown(seen.unknown).numpy().sum()) if score.has_limit else None,
        score.rejected,
        None if told is None else told["auroc"],
        learner.open_set is not None,
        float((seen.weights[known] > 0).mean()) if chooses and known.any() else None,
        int((seems >= 0).sum()),
        None if copies is None else len(copies),
        isinstance(data, BankedData),
        uses_unlabeled_images(settings),
    )
    return found, made, note


def _comparison(settings: Settings, results: Results, step: int) -> Mapping[str, Any] | None:
    """Returns the comparison of a run with others that is about the reported network, or None."""
    found = results.comparison
    if found is None or not found.get("parts"):
        return None
    if settings.answer == "run" and not settings.finetune_steps:
        # Another export may have chosen another answer.
        return found | {"answer": {"exported": "run"}} if found["step"] == step else None
    return found  # it has been made for this report, and what it has chosen counts its own steps


def _shares(
    data: SemiSupervisedData,
    answers: Answers,
    of_labeled: OutOfFold,
    labels: np.ndarray,
    validation: Answers | None,
    sample: Answers,
    rejects: OpenSet | None,
) -> ClassShares:
    """Estimates the class shares from validation pictures, or else from out-of-fold predictions.

    Pictures that the open set of the run rejects are left out.
    """
    if rejects is not None:
        sample = _known(sample, rejects)
        validation = validation and _known(validation, rejects)
    if validation is not None and data.validation is not None:
        of_validation = data.validation.labels[validation.positions]
        return estimate_class_shares(Predictions(validation.logits, of_validation, sample.logits))
    head = Head(answers.given, labels, data.num_classes)
    return estimate_class_shares(
        Predictions(np.log(of_labeled.probabilities), labels, np.log(head(sample.given))),
        refitted(answers.given, labels, sample.given, data.num_classes),
    )


def _known(answers: Answers, rejects: OpenSet) -> Answers:
    """Returns the answers about pictures that do not look like no class; all, if none is left."""
    known = ~rejects.is_unknown(unknown_scores(rejects, answers)).numpy()
    return Answers(*(array[known] for array in answers)) if known.any() else answers


def _evaluated(
    data: SemiSupervisedData,
    network: Network,
    validation: Answers | None,
    labels: np.ndarray,
    of_labeled: OutOfFold,
) -> tuple[str, np.ndarray, np.ndarray]:
    """Returns what accuracy is measured on: the part, the classes and the probabilities."""
    if data.test is None and validation is None:
        return "labeled", labels, of_labeled.probabilities
    part, images, answers = "validation", data.validation, validation
    if data.test is not None:
        part, images, answers = "test", data.test, network.all_of(data.test)
    assert answers is not None and images is not None
    return part, images.labels[answers.positions], softmax(answers.logits, axis=1)


def _copies(settings: Settings, found: Sequence[Copy] | None) -> tuple[list[Copy] | None, str]:
    """Returns the copies across parts of own pictures; None with the reason without the extra."""
    if settings.dataset not in OWN_PICTURES:
        return None, ""
    try:
        found = selected(settings).copies() if found is None else found
    except DataError as error:
        return None, f"Copies were not searched: {error}"
    used = [copy for copy in found if not (settings.drop_copies and copy.part == "unlabeled")]
    return [copy for copy in used if copy.part != copy.original_part], ""


def _root(settings: Settings) -> str:
    return "" if settings.data_dir is None else os.path.join(settings.data_dir, "")


def _as_json(shares: ClassShares, step: int, held_out: str) -> dict[str, Any]:
    def of(estimate: Estimate | None) -> Mapping[str, Any] | None:
        if estimate is None:
            return None
        return {name: array.tolist() for name, array in estimate._asdict().items()}

    return {
        "step": step,
        "calibrated_on": held_out,
        "self_check": shares.self_check,
        "em": of(shares.em),
        "matrix": of(shares.matrix),
    }
