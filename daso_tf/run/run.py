"""A training run: prepare it, train it generation by generation, finish it."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from daso_tf.data import ImageFiles, Images, SemiSupervisedData, check_split, load, reading
from daso_tf.data.identity import Identity
from daso_tf.data.sources import OPTIONS
from daso_tf.learners import Learner
from daso_tf.platform import strategies
from daso_tf.platform.disk import naming
from daso_tf.platform.last_step import LastStep
from daso_tf.run import data_file, epochs, exported
from daso_tf.run.callbacks import (
    ContinueMetrics,
    Evaluation,
    PacedCallbacks,
    SaveCheckpoint,
    ShortProgress,
    StopAtNonFiniteLoss,
)
from daso_tf.run.checkpoints import CheckpointError, Checkpoints
from daso_tf.run.flags_file import RULES, changes_since, continued, write_flags_file
from daso_tf.run.generations import Generation, PseudoLabeledImages, alignment_temperature
from daso_tf.run.model_card import model_card
from daso_tf.run.prediction import Prediction
from daso_tf.run.report import LONGEST_NAME, table
from daso_tf.run.results import Results, scores
from daso_tf.settings import combinations, limits
from daso_tf.settings.build import build_encoder, build_learner
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.methods import LEARNERS, SELF_TRAINING
from daso_tf.settings.settings import Settings
from daso_tf.step.export import check_writable, remove_unfinished

# Flags in which the workers of a run may differ: where files are, and how long to wait.
_OF_ONE_WORKER = {
    "adopt_changes",
    "adopt_data",
    "data_dir",
    "encoder_weights",
    "export_dir",
    "from_model_dir",
    "model_dir",
    "unlabeled_distribution",
    "wait_for_workers",
}


class Run(NamedTuple):
    """What training needs, checked and ready.

    Attributes:
        settings: The settings of the run, completed.
        strategy: The devices that it trains on.
        model_dir: The folder of the run.
        data: Its data, as loaded.
        identity: What the data consists of.
        generation: The generation of self-training that trains next; the only one without it.
        learner: What is trained, in the state of the newest checkpoint.
        checkpoints: Those of the run.
        results: Its evaluations so far.
        stages: What is left to train in this generation.
        last_step: When to stop early.
    """

    settings: Settings
    strategy: tf.distribute.Strategy
    model_dir: Path
    data: SemiSupervisedData
    identity: Identity
    generation: Generation
    learner: Learner
    checkpoints: Checkpoints
    results: Results
    stages: list[epochs.Stage]
    last_step: LastStep


def prepare(settings: Settings, last_step: LastStep | None = None) -> Run:
    """Makes everything that training needs; wrong settings and wrong data are found here.

    Args:
        settings: Those of the train command.
        last_step: When to stop early; by default never.

    Raises:
        ValueError: If a setting, the data or the checkpoints cannot be used.
        OSError: If a file cannot be read or written.
    """
    settings = complete(settings)
    combinations.check(settings)
    if settings.stop_after and settings.pseudo_labeler in SELF_TRAINING:
        raise ValueError(
            f"--stop_after does not go with --pseudo_labeler={settings.pseudo_labeler}: each "
            "generation begins with new weights, which are worse at first. Leave one of them out."
        )
    model_dir = Path(settings.model_dir)
    checkpoints = Checkpoints(model_dir / "checkpoints", keep=settings.keep_checkpoints)
    is_new = not checkpoints.paths()
    settings = _new(settings) if is_new else continued(model_dir / "flags.cfg", settings)
    _check_unchanged(settings, model_dir, checkpoints)
    run_data = _load(settings, checkpoints)
    data = run_data.data
    if data.validation is None and (settings.best or settings.stop_after):
        flag = "--best" if settings.best else f"--stop_after={settings.stop_after}"
        raise ValueError(
            f"{flag} needs validation images: set some aside with --validation_size, or use data "
            "that has them. The test images must not choose."
        )
    last_step = last_step or LastStep()
    strategy = strategies.make(
        settings.strategy, settings.wait_for_workers, _identity(settings), last_step
    )
    check_split(settings.batch_size, strategy.num_replicas_in_sync)
    if is_new:
        limits.check_cutout(settings, data.labeled.size)
    if strategies.is_chief(strategy):
        check_writable(settings.export_dir)
    run = begin(settings, data, run_data.identity, checkpoints, strategy, last_step)
    if strategies.is_chief(strategy):
        if run_data.news:
            print(run_data.news)
        _remove_leftovers(model_dir, settings.export_dir)
        model_dir.mkdir(parents=True, exist_ok=True)
        run_data.write(model_dir / data_file.NAME)
        write_flags_file(model_dir / "flags.cfg", settings)
        if data.test is not None:
            folder = model_dir / "test_images"
            _write_images(data.test, data.class_names, folder, settings.test_images)
    return run


def _load(settings: Settings, checkpoints: Checkpoints) -> data_file.RunData:
    """Loads the data and checks that it is that of the run."""
    data = load(
        settings.dataset,
        data_dir=settings.data_dir,
        **{name: settings[name] for name in OPTIONS},
        labeled_head=settings.labeled_head,
        labeled_imbalance=settings.labeled_imbalance,
        unlabeled_head=settings.unlabeled_head,
        unlabeled_imbalance=settings.unlabeled_imbalance,
        reverse_unlabeled=settings.reverse_unlabeled,
        validation_size=settings.validation_size,
        class_order=settings.class_order,
        source_size=settings.source_size,
        resolution=settings.resolution,
        stream={"auto": None, "true": True, "false": False}[settings.stream],
        max_bad_files=settings.max_bad_files,
        drop_copies=settings.drop_copies,
        labeled_alone=LEARNERS[settings.learner].make.labeled_alone,
        max_megapixels=settings.max_megapixels,
        seed=settings.seed,
    )
    _note_missing_parts(settings, data)
    run_data = data_file.continue_with(
        data,
        settings.data_dir,
        Path(settings.model_dir),
        bool(checkpoints.paths()),
        settings.adopt_data,
    )
    checkpoints.unlabeled = run_data.unlabeled
    return run_data


def _generation_length(settings: Settings) -> int:
    """Returns the steps of a generation of self-training; those of the run without it."""
    self_training = settings.pseudo_labeler in SELF_TRAINING
    return settings.generation_steps if self_training else settings.steps


def _results(settings: Settings, data: SemiSupervisedData, identity: Identity) -> Results:
    return Results(
        Path(settings.model_dir) / "results.json",
        data.class_names,
        data.labeled_counts,
        data.unlabeled_counts,
        identity.evaluated,
    )


def begin(
    settings: Settings,
    data: SemiSupervisedData,
    identity: Identity,
    checkpoints: Checkpoints,
    strategy: tf.distribute.Strategy,
    last_step: LastStep,
) -> Run:
    """Makes the learner of the newest checkpoint, or of the generation that follows it.

    Args:
        settings: The settings of the run, completed.
        data: The data of the run.
        identity: What the data consists of.
        checkpoints: Those of the run so far.
        strategy: The devices that it trains on.
        last_step: When to stop early.
    """
    model_dir = Path(settings.model_dir)
    whole_run = Generation.at(0, settings.steps, settings.steps)
    learner = _learner(settings, strategy, data, data, whole_run)
    checkpoints.restore(learner)
    step = int(learner.step.numpy())
    strategies.check_same(strategy, "step of the newest checkpoint", step)
    epochs.check(settings, step)
    generation = Generation.at(step, _generation_length(settings), settings.steps)
    trained_on = data
    if generation.number:
        images = PseudoLabeledImages(model_dir / "generations", checkpoints.unlabeled)
        if step == generation.first_step:
            with reading(data):
                images.choose(
                    generation,
                    Prediction(learner, settings.evaluation_batch_size),
                    data,
                    settings.crest_alpha,
                    write=strategies.is_chief(strategy),
                )
            # All workers read what one of them has written: they wait for it here.
            strategies.check_same(strategy, "generation", generation.number)
        trained_on = images.added_to(data, generation)
        learner = _learner(settings, strategy, data, trained_on, generation)
        if step > generation.first_step:
            checkpoints.restore(learner)
    stages = list(epochs.stages(settings, learner, trained_on, generation.last_step))
    results = _results(settings, data, identity)
    results.forget_after(step)
    if settings.best and results.evaluations:
        _best_step(results, checkpoints)
    if _is_over(settings, results):
        stages = []
    return Run(
        settings,
        strategy,
        model_dir,
        data,
        identity,
        generation,
        learner,
        checkpoints,
        results,
        stages,
        last_step,
    )


def train(run: Run) -> Run:
    """Trains to the last step, with evaluation and checkpoint every `--evaluate_every` steps.

    Returns:
        The run in its last generation.

    Raises:
        Stopped: If it was told to stop; a checkpoint has been saved.
        NonFiniteError: If a loss or a variable becomes nan or infinite.
        DataError: If more image files turn out to be unreadable than may be left out.
    """
    _train_generation(run)
    while run.generation.last_step < run.settings.steps:
        run = begin(
            run.settings, run.data, run.identity, run.checkpoints, run.strategy, run.last_step
        )
        _train_generation(run)
    return run


def finish(run: Run) -> None:
    """Exports the last step, or the best one, and prints the table of results.

    Every worker must call it.

    Raises:
        OSError: If the export cannot be written.
    """
    settings, learner = run.settings, run.learner
    last_step = step = int(learner.step.numpy())
    if settings.best:
        step = _best_step(run.results, run.checkpoints)
    if step != last_step:
        learner = _restored(settings, run.data, run.checkpoints, run.strategy, step)
    with reading(run.data):
        answers = _answers(settings, run.data, learner, run.results)
    if not strategies.is_chief(run.strategy):
        return
    card = model_card(settings, run.results, step)
    exported.export(learner, settings, settings.export_dir, card)
    run.results.set_exported(answers)
    early = last_step < settings.steps
    reason = f" There was no progress in {run.results.without_progress()} evaluations." * early
    print(f"\n{run.model_dir} is finished, {last_step} steps.{reason}", end="\n\n")
    _print_results(run.results, settings.export_dir)


def export(settings: Settings, step: int | None = None, record: bool = True) -> None:
    """Exports a step of a run and prints its results.

    Args:
        settings: Those of the run, completed.
        step: The step, one that has a checkpoint; by default the newest one, or with `--best` the
            best one.
        record: Whether `results.json` gets the scores of the export: it is that of the run.

    Raises:
        ValueError: If a setting, the data or the checkpoint cannot be used.
        OSError: If a file cannot be read or written.
    """
    combinations.check(settings)
    checkpoints = Checkpoints(Path(settings.model_dir) / "checkpoints")
    if not checkpoints.paths():
        raise ValueError(f"{settings.model_dir} has no checkpoint to export.")
    run_data = _load(settings, checkpoints)
    data, strategy = run_data.data, strategies.make("none")
    results = _results(settings, data, run_data.identity)
    results.forget_after(checkpoints.newest_step())
    if step is None:
        newest = checkpoints.newest_step()
        step = _best_step(results, checkpoints) if settings.best else newest
    learner = _restored(settings, data, checkpoints, strategy, step)
    with reading(data):
        answers = _answers(settings, data, learner, results)
    card = model_card(settings, results, step)
    exported.export(learner, settings, settings.export_dir, card)
    if record:
        results.set_exported(answers)
    else:
        results.exported = answers
    print(f"\nExported step {step} of {settings.model_dir}.", end="\n\n")
    _print_results(results, settings.export_dir)


def _print_results(results: Results, export_dir: str) -> None:
    if results.evaluations:
        print(table(results), end="\n\n")
    print(f"All evaluations: {results.path}\nExported model:  {export_dir}")


def _answers(
    settings: Settings, data: SemiSupervisedData, learner: Learner, results: Results
) -> dict[str, Any]:
    """Returns the scores of a learner with its own logit adjustment at test time."""
    step, strength = int(learner.step.numpy()), settings.test_logit_adjustment
    answers: dict[str, Any] = {
        "step": step,
        "best": settings.best,
        "test_logit_adjustment": strength,
    }
    evaluation = results.at(step)
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


def _best_step(results: Results, checkpoints: Checkpoints) -> int:
    """Returns the step with the best validation result, which must have a checkpoint."""
    step = results.best_step()
    if step is None:
        raise ValueError(f"--best: {results.path} has no evaluations of validation images.")
    if step not in checkpoints.steps():
        raise ValueError(
            f"--best: step {step} is the best of {checkpoints.directory.parent}, but its "
            "checkpoint is gone: it is kept if the run is started with --best. There are "
            f"checkpoints of the steps {', '.join(map(str, checkpoints.steps()))}."
        )
    return step


def _is_over(settings: Settings, results: Results) -> bool:
    """Whether the run has made no progress for `--stop_after` evaluations."""
    return 0 < settings.stop_after <= results.without_progress()


def _restored(
    settings: Settings,
    data: SemiSupervisedData,
    checkpoints: Checkpoints,
    strategy: tf.distribute.Strategy,
    step: int,
) -> Learner:
    """Makes the learner of a checkpoint."""
    generation = Generation.at(max(step - 1, 0), _generation_length(settings), settings.steps)
    images = PseudoLabeledImages(Path(settings.model_dir) / "generations", checkpoints.unlabeled)
    trained_on = images.added_to(data, generation)
    learner = _learner(settings, strategy, data, trained_on, generation)
    checkpoints.restore(learner, step)
    return learner


def _train_generation(run: Run) -> None:
    parts = {"test": run.data.test, "validation": run.data.validation}
    evaluated = {name: images for name, images in parts.items() if images is not None}
    predict = Prediction(run.learner, run.settings.evaluation_batch_size)
    is_chief = strategies.is_chief(run.strategy)
    settings = run.settings
    save = SaveCheckpoint(
        run.checkpoints,
        settings.checkpoint_every,
        is_chief,
        run.results.best_step if settings.best else lambda step: None,
    )
    directory = run.model_dir if is_chief else None
    callbacks: list[keras.callbacks.Callback] = [
        ContinueMetrics(),
        StopAtNonFiniteLoss(),
        *([ShortProgress()] if is_chief else []),
        Evaluation(evaluated, predict, run.results, directory, settings.stop_after),
        save,
    ]
    verbose = 0
    if is_chief:
        verbose = 1 if sys.stdout.isatty() else 2  # a bar, or one line per epoch in a file
    with reading(run.data):
        for stage in run.stages:
            run.learner.fit(
                stage.batches,
                steps_per_epoch=stage.steps_per_epoch,
                initial_epoch=stage.initial_epoch,
                epochs=stage.epochs,
                callbacks=PacedCallbacks(
                    callbacks,
                    run.learner,
                    stage.steps_per_epoch,
                    stage.epochs,
                    verbose,
                    run.last_step,
                    save.after_step,
                ),
                shuffle=False,  # the batches are shuffled already
                verbose=verbose,
            )
            if _is_over(settings, run.results):
                return


def _learner(
    settings: Settings,
    strategy: tf.distribute.Strategy,
    data: SemiSupervisedData,
    trained_on: SemiSupervisedData,
    generation: Generation,
) -> Learner:
    """Makes the learner of a generation, with its initial weights."""
    keras.utils.set_random_seed(settings.seed + generation.number)  # of the initial weights
    with strategy.scope():
        return build_learner(
            settings,
            data,
            encoder=_restored_encoder(settings, data) if settings.from_model_dir else None,
            labeled_counts=trained_on.labeled_counts.tolist(),
            first_step=generation.first_step,
            generation_steps=generation.last_step - generation.first_step,
            alignment_temperature=alignment_temperature(
                generation.number, generation.count, settings.crest_temperature
            ),
        )


def _restored_encoder(settings: Settings, data: SemiSupervisedData) -> keras.Model:
    """Returns the averaged encoder of another run."""
    encoder = build_encoder(settings, data)
    model_dir = Path(settings.from_model_dir)
    try:
        restored = Checkpoints(model_dir / "checkpoints").restore_encoder(encoder)
    except CheckpointError as error:
        raise ValueError(
            f"--from_model_dir={model_dir}: {error}. If they are whole, that run has another "
            "--encoder or --resolution."
        ) from error
    if not restored:
        raise ValueError(f"--from_model_dir={model_dir} has no checkpoint of a training run.")
    return encoder


def _identity(settings: Settings) -> str:
    """Returns a hash of what all workers of a run must have in common."""
    shared = (name for name in sorted(TRAIN.keys() - _OF_ONE_WORKER))
    texts = [f"{name}={as_text(settings[name])}" for name in shared if settings[name] is not None]
    return hashlib.sha256("\n".join([f"rules={RULES}", *texts]).encode()).hexdigest()[:32]


def _new(settings: Settings) -> Settings:
    """Checks the settings of a run that starts, and shortens a default that is too long for it."""
    limits.check_effects(settings)
    shortened = limits.shortened(settings)
    if shortened != settings:
        logging.warning(
            "--pretrain_steps is %d, a tenth of --steps=%d, because its default of %d is not below",
            shortened.pretrain_steps,
            settings.steps,
            settings.pretrain_steps,
        )
    return shortened


def _check_unchanged(settings: Settings, model_dir: Path, checkpoints: Checkpoints) -> None:
    """Refuses to continue a run that was started with other settings or rules."""
    flags_file = model_dir / "flags.cfg"
    if not checkpoints.paths() or not flags_file.exists():
        return
    changes = changes_since(flags_file, settings)
    if changes.settings:
        raise ValueError(
            f"{model_dir} was started with other settings ({'; '.join(changes.settings)}). Give the"
            " same settings to continue it, or another --model_dir to start a new run."
        )
    computed = [*changes.defaults, *changes.rules]
    if not computed or settings.adopt_changes or checkpoints.newest_step() >= settings.steps:
        return
    raise ValueError(
        f"{model_dir} was started by an earlier version of daso_tf, which computed differently:"
        f" {'; '.join(computed)}. --adopt_changes continues it with the new rules; another"
        " --model_dir starts a new run. To evaluate or export it as it is, give"
        f" --steps={checkpoints.newest_step()}."
    )


def _note_missing_parts(settings: Settings, data: SemiSupervisedData) -> None:
    """Says where results come from if there are no test images."""
    if data.test is not None:
        return
    if settings.test_images:
        raise ValueError(
            f"--test_images={settings.test_images}, but there are no test images; leave it out."
        )
    logging.warning(
        "There are no test images: %s.",
        "only pseudo-labels are reported"
        if data.validation is None
        else "results come from the validation images",
    )


def _remove_leftovers(model_dir: Path, export_dir: str) -> None:
    """Removes what a process that was killed has left unfinished."""
    remove_unfinished(export_dir)
    for unfinished in model_dir.glob(".export-" + 8 * "[a-z0-9_]"):  # as version 0.1 named them
        shutil.rmtree(unfinished, ignore_errors=True)
    for folder in (model_dir, model_dir / "checkpoints", model_dir / "generations"):
        for unfinished in folder.glob("*.tmp"):
            if unfinished.is_file():
                unfinished.unlink(missing_ok=True)


def _write_images(
    images: Images | ImageFiles, class_names: tuple[str, ...], directory: Path, count: int
) -> None:
    """Writes images spread over the test set as PNG files, named by class, to try the export."""
    if not count:
        return
    directory.mkdir(exist_ok=True)
    members = np.linspace(0, len(images) - 1, min(count, len(images)), dtype=int)
    for index, image in zip(members, images.take(members), strict=True):
        class_name = class_names[images.labels[index]].replace("/", "_")[:LONGEST_NAME]
        name = f"{class_name}_{index}.png"
        with naming(directory / name):
            Image.fromarray(image).save(directory / name)
