"""What comes out of a run: the export, its scores and the table of results."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from daso_tf.data import BankedData, SemiSupervisedData, reading
from daso_tf.learners import Learner
from daso_tf.platform import strategies
from daso_tf.run import banks, comparison, exported, held_out
from daso_tf.run.best import best_step
from daso_tf.run.calibrate import Calibrated, calibrated, check_calibrates
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.data_file import RunData
from daso_tf.run.held_out import HeldOut
from daso_tf.run.inspection.answers import Network
from daso_tf.run.inspection.inspect import OWN_PICTURES, PAGE, check_reportable, inspect
from daso_tf.run.inspection.label_next import write_next
from daso_tf.run.learner import restored
from daso_tf.run.model_card import model_card
from daso_tf.run.open_set import detector_of, line
from daso_tf.run.prediction import Prediction
from daso_tf.run.preparation import load_data
from daso_tf.run.report import draw, table
from daso_tf.run.results import Results, scores
from daso_tf.run.run import Run, results_of
from daso_tf.run.twin import twin_of, twin_settings
from daso_tf.settings import combinations
from daso_tf.settings.settings import Settings
from daso_tf.step import closed_forms


def finish(run: Run) -> None:
    """Exports the last step, or the best one, and prints the table of results.

    Every worker must call it.

    Raises:
        OSError: If the export cannot be written.
    """
    settings, learner = run.settings, run.learner
    last_step = step = int(learner.step.numpy())
    if settings.best:
        step = best_step(run.results, run.checkpoints)
    if step != last_step:
        learner = restored(settings, run.data, run.checkpoints, run.strategy, step)
    with reading(run.data):
        learner, answers, fitted, known = _answer(
            settings, run.data, learner, run.results, run.strategy
        )
    if not strategies.is_chief(run.strategy):
        return
    card = model_card(settings, run.results, step, answers)
    calibrator = fitted and fitted.calibrator
    is_new = exported.export(learner, settings, settings.export_dir, card, known, calibrator)
    run.results.set_exported(answers)
    if run.results.comparison is not None:
        draw(run.results, run.model_dir / "results.png")
    early = last_step < settings.steps
    reason = f" There was no progress in {run.results.without_progress()} evaluations." * early
    print(f"\n{run.model_dir} is finished, {last_step} steps.{reason}", end="\n\n")
    _print_results(run.results, settings.export_dir, settings, fitted)
    own = settings.report and settings.dataset in OWN_PICTURES and len(run.data.unlabeled)
    if own and (is_new or not (run.model_dir / PAGE).exists()):
        if settings.strategy != "none":
            alone = strategies.make("none")
            twin = twin_of(settings, run.data, alone) if "labels_only" in answers else None
            learner = twin or restored(settings, run.data, run.checkpoints, alone, step)
        data = _data_of(run.data, answers)
        page = inspect(settings, data, run.identity, learner, run.results, run.copies)
        print(f"Report:          {page}")


def report(settings: Settings, step: int | None = None) -> Path:
    """Writes the report of a step of a run into its folder.

    Args:
        settings: Those of the run, completed.
        step: The step, one that has a checkpoint; by default the newest one, or with `--best` the
            best one.

    Returns:
        The page.

    Raises:
        ValueError: If a setting, the data or the checkpoint cannot be used, or if there are no
            unlabeled pictures.
        OSError: If a file cannot be read or written.
    """
    run_data, checkpoints, results = _opened(settings, "report on")
    check_reportable(settings.model_dir, run_data.data)
    step = _chosen(settings, checkpoints, results, step)
    learner = restored(settings, run_data.data, checkpoints, strategies.make("none"), step)
    data = run_data.data
    if settings.answer != "run" or settings.finetune_steps:  # another one may be what is exported
        with reading(data):
            learner, answers, *_ = _answer(
                settings, data, learner, results, strategies.make("none")
            )
        data = _data_of(data, answers)
    return inspect(settings, data, run_data.identity, learner, results, run_data.copies)


def label_next(settings: Settings, count: int, path: Path) -> None:
    """Writes a list of the pictures of a run, those to label next first.

    Args:
        settings: Those of the run, completed.
        count: How many pictures are to be labeled.
        path: The CSV file, a label file of `image_list`.

    Raises:
        ValueError: If a setting, the data or the checkpoint cannot be used, or if there are not as
            many unlabeled pictures.
        OSError: If a file cannot be read or written.
    """
    if settings.dataset not in OWN_PICTURES:
        raise ValueError(
            f"{settings.model_dir} is a run on {settings.dataset}; there are files to label only "
            f"in a run on {' or '.join(OWN_PICTURES)}."
        )
    run_data, checkpoints, results = _opened(settings, "choose pictures with")
    unlabeled = len(run_data.data.unlabeled)
    if not 1 <= count <= unlabeled:
        raise ValueError(
            f"--count={count}, but {settings.model_dir} has {unlabeled} unlabeled pictures; it "
            f"must be from 1 to {unlabeled}."
        )
    step = _chosen(settings, checkpoints, results, None)
    learner = restored(settings, run_data.data, checkpoints, strategies.make("none"), step)
    write_next(path, Network(learner, settings.evaluation_batch_size), run_data, count)


def export(
    settings: Settings,
    step: int | None = None,
    record: bool = True,
    formats: Collection[str] = ("saved_model",),
    side: int | None = None,
) -> None:
    """Exports a step of a run and prints its results.

    Args:
        settings: Those of the run, completed.
        step: The step, one that has a checkpoint; by default the newest one, or with `--best` the
            best one.
        record: Whether `results.json` gets the scores of the export: it is that of the run.
        formats: Of `exported.FORMATS`. A SavedModel is the folder `--export_dir`; the others are
            files in the same folder, with the same name.
        side: Height and width in pixels of the images that a file takes; by default
            `--resolution`.

    Raises:
        ValueError: If a setting, the data or the checkpoint cannot be used.
        OSError: If a file cannot be read or written.
    """
    run_data, checkpoints, results = _opened(settings, "export")
    data = run_data.data
    check_calibrates(settings, data)
    if settings.answer == "run" and not settings.freeze_encoder:
        settings = settings.replace(compare_labels_only=False)  # there is nothing to choose
    step = _chosen(settings, checkpoints, results, step)
    learner = restored(settings, data, checkpoints, strategies.make("none"), step)
    with reading(data):
        learner, answers, fitted, known = _answer(
            settings, data, learner, results, strategies.make("none")
        )
    calibrator = fitted and fitted.calibrator
    written = []
    if "saved_model" in formats:
        card = model_card(settings, results, step, answers)
        exported.export(learner, settings, settings.export_dir, card, known, calibrator)
        written.append(settings.export_dir)
    for name in exported.FILES.keys() & formats:
        path = f"{settings.export_dir}{exported.FILES[name]}"
        size = None if side is None else (side, side)
        learner.export(path, name, size=size, calibrator=calibrator)
        written.append(path)
    if record and "saved_model" in formats:
        results.set_exported(answers)
    else:
        results.exported = answers
    print(f"\nExported step {step} of {settings.model_dir}.", end="\n\n")
    _print_results(results, ", ".join(sorted(written)), settings, fitted)


def _opened(settings: Settings, purpose: str) -> tuple[RunData, Checkpoints, Results]:
    """Loads the data of a run and finds its checkpoints and its evaluations."""
    combinations.check(settings)
    banks.check(settings)
    checkpoints = Checkpoints(Path(settings.model_dir) / "checkpoints")
    if not checkpoints.paths():
        raise ValueError(f"{settings.model_dir} has no checkpoint to {purpose}.")
    run_data = load_data(settings, checkpoints)
    run_data = run_data._replace(data=banks.banked(settings, run_data.data))
    comparison.check_answer(settings, run_data.data)
    results = results_of(settings, run_data.data, run_data.identity)
    results.forget_after(checkpoints.newest_step())
    return run_data, checkpoints, results


def _chosen(
    settings: Settings, checkpoints: Checkpoints, results: Results, step: int | None
) -> int:
    """Returns the step that was asked for: the best one, or else the newest one, by default."""
    if step is not None:
        return step
    return best_step(results, checkpoints) if settings.best else checkpoints.newest_step()


def _print_results(
    results: Results, export_dir: str, settings: Settings, fitted: Calibrated | None
) -> None:
    if results.evaluations:
        print(table(results), end="\n\n")
    if results.comparison is not None:
        print("Does unlabeled data help here?", end="\n\n")
        print(comparison.table(results.comparison, results.labeled_counts), end="\n\n")
    if found := (results.exported or {}).get("unknown"):
        print(line(found), end="\n\n")
    if fitted:
        print(f"exported model, {fitted.line()}", end="\n\n")
    if results.medians():
        print(about_logit_adjustment(settings), end="\n\n")
    print(f"All evaluations: {results.path}\nExported model:  {export_dir}")


def about_logit_adjustment(settings: Settings) -> str:
    """Returns what "logit-adjusted" in the table means, and how to export these answers.

    Args:
        settings: Those of the run, completed.
    """
    meaning = (
        "logit-adjusted: each class is divided by its share of the labeled images, so that rare "
        "classes are answered more often"
    )
    export = f"daso-tf export {shlex.quote(settings.model_dir)} --test_logit_adjustment"
    if settings.test_logit_adjustment:
        return f"{meaning}. The exported model does so. To export the plain answers: {export}=0"
    if not combinations.can_add("test_logit_adjustment", settings):
        return f"{meaning}. This training counters the imbalance in its own way."
    return f"{meaning}. To export these answers: {export}=1"


def _answer(
    settings: Settings,
    data: SemiSupervisedData,
    learner: Learner,
    results: Results,
    strategy: tf.distribute.Strategy,
) -> tuple[Learner, dict[str, Any], Calibrated | None, HeldOut]:
    """Returns the learner to export, its scores and its calibration, and what is known of it.

    Where the run is compared with its twin and others, `--answer` chooses between them.
    """
    evaluation = results.at(int(learner.step.numpy()))
    if not comparison.is_compared(settings):
        if results.comparison is not None:
            answer = {"asked": "run", "exported": "run"}
            results.set_comparison(results.comparison | {"answer": answer})
        return learner, *_answers(settings, data, learner, evaluation, settings)
    compared = comparison.compare(settings, data, learner, strategy, results.comparison)
    results.set_comparison(compared.content)
    if compared.learner is learner:
        return learner, *_answers(settings, data, learner, evaluation, settings)
    name = compared.content["answer"]["exported"]
    own = twin_settings(settings) if name == "labels_only" else settings
    answers, fitted, known = _answers(settings, compared.data, compared.learner, None, own)
    if name in closed_forms.LINEAR and known.calibrator is None:
        known = known.for_equal_shares()
    answers |= {"step": compared.content["step"], "answer": name}
    if name != "finetuned":
        answers["labels_only"] = True
    return compared.learner, answers, fitted, known


def _data_of(data: SemiSupervisedData, answers: Mapping[str, Any]) -> SemiSupervisedData:
    """Returns the data of a run as the exported learner takes it."""
    if isinstance(data, BankedData) and answers.get("answer") == "finetuned":
        return data.pictures
    return data


def _answers(
    settings: Settings,
    data: SemiSupervisedData,
    learner: Learner,
    evaluation: dict[str, Any] | None,
    trained_by: Settings,
) -> tuple[dict[str, Any], Calibrated | None, HeldOut]:
    """Returns the scores of a learner as it is exported, its calibration, and what is known of it.

    Args:
        settings: Those of the run.
        data: Its data.
        learner: What is exported.
        evaluation: The evaluation of this learner; None where there is none.
        trained_by: The settings with which it was trained: those of the run, or of its twin.
    """
    step, strength = int(learner.step.numpy()), settings.test_logit_adjustment
    answers: dict[str, Any] = {
        "step": step,
        "best": settings.best,
        "test_logit_adjustment": strength,
    }
    predict = Prediction(learner, settings.evaluation_batch_size)
    tells_unknown = learner.open_set is not None or data.unknown is not None
    if tells_unknown and (measured := detector_of(settings, data, learner).measured()):
        answers["unknown"] = measured
    fitted = None
    if settings.calibrate != "none":
        fitted = calibrated(settings, data, predict, trained_by)
        answers["calibrated"] = fitted.as_json()
    # An evaluation has the plain and the adjusted scores; a bias per class changes both.
    if strength not in (0, 1) or settings.calibrate == "vector":
        evaluation = None
    of_validation = None
    for name, images in (("test", data.test), ("validation", data.validation)):
        if images is None:
            continue
        known = evaluation and evaluation.get(name)
        if known is None or name == "validation":
            probabilities = predict(images)
            if fitted:
                probabilities = fitted.calibrator.of_probabilities(probabilities)
            of_validation = probabilities if name == "validation" else None
        if known is None:
            found = scores(images.labels, probabilities.argmax(axis=1), data.num_classes)
        else:
            found = known["logit_adjusted"] if strength else known
        answers[name] = {key: value for key, value in found.items() if key != "logit_adjusted"}
    return answers, fitted, held_out.of_export(settings, data, of_validation)
