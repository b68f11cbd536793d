"""What comes out of a run: the export, its scores and the table of results."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from daso_tf.data import BankedData, SemiSupervisedData, reading
from daso_tf.learners import Learner
from daso_tf.platform import strategies
from daso_tf.run import banks, comparison, exported
from daso_tf.run.best import best_step
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.learner import restored
from daso_tf.run.model_card import model_card
from daso_tf.run.prediction import Prediction
from daso_tf.run.preparation import load_data
from daso_tf.run.report import draw, table
from daso_tf.run.results import Results, scores
from daso_tf.run.run import Run, results_of
from daso_tf.settings import combinations
from daso_tf.settings.settings import Settings


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
        learner, answers = _answer(settings, run.data, learner, run.results)
    if not strategies.is_chief(run.strategy):
        return
    card = model_card(settings, run.results, step, _of_twin(answers))
    exported.export(learner, settings, settings.export_dir, card)
    run.results.set_exported(answers)
    if run.results.comparison is not None:
        draw(run.results, run.model_dir / "results.png")
    early = last_step < settings.steps
    reason = f" There was no progress in {run.results.without_progress()} evaluations." * early
    print(f"\n{run.model_dir} is finished, {last_step} steps.{reason}", end="\n\n")
    _print_results(run.results, settings.export_dir, settings)


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
    combinations.check(settings)
    banks.check(settings)
    checkpoints = Checkpoints(Path(settings.model_dir) / "checkpoints")
    if not checkpoints.paths():
        raise ValueError(f"{settings.model_dir} has no checkpoint to export.")
    run_data = load_data(settings, checkpoints)
    strategy = strategies.make("none")
    data = banks.banked(settings, run_data.data)
    results = results_of(settings, data, run_data.identity)
    results.forget_after(checkpoints.newest_step())
    if step is None:
        newest = checkpoints.newest_step()
        step = best_step(results, checkpoints) if settings.best else newest
    learner = restored(settings, data, checkpoints, strategy, step)
    with reading(data):
        learner, answers = _answer(settings, data, learner, results)
    written = []
    if "saved_model" in formats:
        card = model_card(settings, results, step, _of_twin(answers))
        exported.export(learner, settings, settings.export_dir, card)
        written.append(settings.export_dir)
    for name in exported.FILES.keys() & formats:
        path = f"{settings.export_dir}{exported.FILES[name]}"
        learner.export(path, name, size=None if side is None else (side, side))
        written.append(path)
    if record and "saved_model" in formats:
        results.set_exported(answers)
    else:
        results.exported = answers
    print(f"\nExported step {step} of {settings.model_dir}.", end="\n\n")
    _print_results(results, ", ".join(sorted(written)), settings)


def _print_results(results: Results, export_dir: str, settings: Settings) -> None:
    if results.evaluations:
        print(table(results), end="\n\n")
    if results.comparison is not None:
        print("Does unlabeled data help here?", end="\n\n")
        print(comparison.table(results.comparison, results.labeled_counts), end="\n\n")
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
    settings: Settings, data: SemiSupervisedData, learner: Learner, results: Results
) -> tuple[Learner, dict[str, Any]]:
    """Returns the learner to export and its scores.

    On a feature bank, the run is compared with its twin, and `--answer` chooses between them.
    """
    evaluation = results.at(int(learner.step.numpy()))
    if not isinstance(data, BankedData):
        return learner, _answers(settings, data, learner, evaluation)
    compared = comparison.compare(settings, data, learner, results.comparison)
    results.set_comparison(compared.content)
    if not compared.exports_twin or compared.twin is None:
        return learner, _answers(settings, data, learner, evaluation)
    answers = _answers(settings, data, compared.twin, None)
    return compared.twin, {**answers, "labels_only": True}


def _of_twin(answers: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the scores by part, where the answers are those of the twin."""
    parts = ("test", "validation")
    return {p: answers[p] for p in parts if p in answers} if "labels_only" in answers else None


def _answers(
    settings: Settings,
    data: SemiSupervisedData,
    learner: Learner,
    evaluation: dict[str, Any] | None,
) -> dict[str, Any]:
    """Returns the scores of a learner with its own logit adjustment at test time.

    Args:
        settings: Those of the run.
        data: Its data.
        learner: What is exported.
        evaluation: The evaluation of this learner; None where there is none.
    """
    step, strength = int(learner.step.numpy()), settings.test_logit_adjustment
    answers: dict[str, Any] = {
        "step": step,
        "best": settings.best,
        "test_logit_adjustment": strength,
    }
    for name, images in (("test", data.test), ("validation", data.validation)):
        if images is None:
            continue
        known = evaluation and evaluation.get(name)
        if known and strength in (0, 1):  # the evaluation has both
            found = known["logit_adjusted"] if strength else known
        else:
            probabilities = Prediction(learner, settings.evaluation_batch_size)(images)
            found = scores(images.labels, probabilities.argmax(axis=1), data.num_classes)
        answers[name] = {key: value for key, value in found.items() if key != "logit_adjusted"}
    return answers
