"""Trains a learner as the flags say: `python -m daso_tf.train --flagfile=flags/digits_lt.cfg`.

The same command again goes on where the run in `--model_dir` stopped. Exit code: 0 finished,
1 stopped by a loss that is not finite or by image files that cannot be read, 2 a setting or the
data cannot be used, 130 interrupted.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging
from PIL import Image

from daso_tf.commands import terminal
from daso_tf.data import (
    DataError,
    ImageFiles,
    Images,
    SemiSupervisedData,
    check_split,
    load,
    reading,
)
from daso_tf.platform import strategies
from daso_tf.run import epochs
from daso_tf.run.callbacks import (
    Evaluation,
    PacedCallbacks,
    SaveCheckpoint,
    ShortProgress,
    StopAtNonFiniteLoss,
)
from daso_tf.run.checkpoints import Checkpoints, NonFiniteError
from daso_tf.run.generations import Generation, PseudoLabeledImages
from daso_tf.run.prediction import Prediction
from daso_tf.run.report import table
from daso_tf.run.results import Results
from daso_tf.settings import combinations
from daso_tf.settings.build import SELF_TRAINING, build_learner
from daso_tf.settings.flags import FLAGS, adopt_learner_defaults, changes_since, write_flags_file


class Run(NamedTuple):
    """What training needs, checked and ready."""

    strategy: tf.distribute.Strategy
    model_dir: Path
    data: SemiSupervisedData
    generation: Generation
    learner: keras.Model
    checkpoints: Checkpoints
    results: Results
    stretches: list[epochs.Stretch]


def main(argv: list[str]) -> int:
    """Prepares, trains and finishes a run.

    Args:
        argv: the program's name; everything else has to be a flag.

    Returns:
        The exit code.
    """
    logging.set_verbosity(logging.WARNING)  # absl's app starts at INFO
    tf.get_logger().setLevel("WARNING")
    try:
        run = prepare(argv[1:])
    except (ValueError, OSError) as error:
        return terminal.fail(error)
    try:
        train(run)
        while run.generation.last_step < FLAGS.steps:
            run = begin(run.data, run.model_dir, run.checkpoints, run.strategy)
            train(run)
    except NonFiniteError as error:
        return terminal.fail(
            f"stopped, {error}. The checkpoints in {run.model_dir} are from before.", 1
        )
    except DataError as error:
        return terminal.fail(
            f"stopped, {error}\nMend or remove the files, then the same command goes on from the "
            "newest checkpoint.",
            1,
        )
    except strategies.WORKER_GONE as error:
        return _fail_alone(error)
    except KeyboardInterrupt:
        return terminal.fail(
            "interrupted; the same command goes on from the newest checkpoint", 130
        )
    try:
        if strategies.is_chief(run.strategy):
            finish(run)
        strategies.wait_for_chief(run.strategy)
    except OSError as error:
        return terminal.fail(error)
    except strategies.WORKER_GONE as error:
        return _fail_alone(error)
    return 0


def prepare(arguments: list[str]) -> Run:
    """Makes everything that training needs; what is wrong with flags or data comes out here.

    Args:
        arguments: of the command line that are not flags; there should be none.

    Raises:
        ValueError: a setting, the data or the checkpoints cannot be used; the message says why.
        OSError: a file cannot be read or written.
    """
    if arguments:
        raise ValueError(f"{arguments[0]!r} is not a flag; settings are written --name=value")
    adopt_learner_defaults()
    combinations.check(FLAGS)
    FLAGS.model_dir = FLAGS.model_dir or f"runs/{FLAGS.dataset}"
    model_dir = Path(FLAGS.model_dir)
    if not FLAGS.export_dir or _belongs_to_another_run(Path(FLAGS.export_dir), model_dir):
        FLAGS.export_dir = f"{FLAGS.model_dir}/export"
    checkpoints = Checkpoints(model_dir / "checkpoints", keep=FLAGS.keep_checkpoints)
    _check_unchanged(model_dir, checkpoints)

    data = load(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        labeled=FLAGS.labeled,
        unlabeled=FLAGS.unlabeled,
        labeled_head=FLAGS.labeled_head,
        labeled_imbalance=FLAGS.labeled_imbalance,
        unlabeled_head=FLAGS.unlabeled_head,
        unlabeled_imbalance=FLAGS.unlabeled_imbalance,
        reverse_unlabeled=FLAGS.reverse_unlabeled,
        validation_size=FLAGS.validation_size,
        source_size=FLAGS.source_size,
        resolution=FLAGS.resolution,
        stream={"auto": None, "true": True, "false": False}[FLAGS.stream],
        max_bad_files=FLAGS.max_bad_files,
        seed=FLAGS.seed,
    )
    strategy = strategies.make(FLAGS.strategy, FLAGS.wait_for_workers)
    check_split(FLAGS.batch_size, strategy.num_replicas_in_sync)
    run = begin(data, model_dir, checkpoints, strategy)
    if not strategies.is_chief(strategy):
        return run
    model_dir.mkdir(parents=True, exist_ok=True)
    write_flags_file(model_dir / "flags.cfg")
    if data.test is not None:
        _write_images(data.test, data.class_names, model_dir / "test_images", FLAGS.test_images)
    return run


def begin(
    data: SemiSupervisedData,
    model_dir: Path,
    checkpoints: Checkpoints,
    strategy: tf.distribute.Strategy,
) -> Run:
    """Makes the learner of the newest checkpoint, or of the generation that follows it.

    Args:
        data: the data of the run.
        model_dir: where the run is kept.
        checkpoints: those of the run so far.
        strategy: the devices that it trains on.
    """
    learner = _learner(strategy, data, data, Generation.at(0, FLAGS.steps, FLAGS.steps))
    checkpoints.restore(learner)
    step = int(learner.step.numpy())
    strategies.check_same(strategy, "step of the newest checkpoint", step)
    epochs.check(FLAGS, step)
    self_training = FLAGS.pseudo_labeler in SELF_TRAINING
    length = FLAGS.generation_steps if self_training else FLAGS.steps
    generation = Generation.at(step, length, FLAGS.steps)
    trained_on = data
    if generation.number:
        images = PseudoLabeledImages(model_dir / "generations")
        if step == generation.first_step:
            with reading(data):
                images.choose(
                    generation,
                    Prediction(learner, FLAGS.evaluation_batch_size),
                    data,
                    FLAGS.crest_alpha,
                    write=strategies.is_chief(strategy),
                )
            # What one worker has written, all of them read: they wait for it here.
            strategies.check_same(strategy, "generation", generation.number)
        trained_on = images.added_to(data, generation)
        learner = _learner(strategy, data, trained_on, generation)
        if step > generation.first_step:
            checkpoints.restore(learner)
    stretches = list(epochs.stretches(FLAGS, learner, trained_on, generation.last_step))
    results = Results(
        model_dir / "results.json", data.class_names, data.labeled_counts, data.unlabeled_counts
    )
    results.forget_after(step)
    return Run(strategy, model_dir, data, generation, learner, checkpoints, results, stretches)


def _learner(strategy, data, trained_on, generation: Generation) -> keras.Model:
    keras.utils.set_random_seed(FLAGS.seed + generation.number)  # of the initial weights
    with strategy.scope():
        return build_learner(FLAGS, data, generation, trained_on)


def train(run: Run) -> None:
    """Trains to the last step, with evaluation and checkpoint every `--evaluate_every` steps.

    Raises:
        NonFiniteError: a loss or a variable became nan or infinite.
        DataError: more image files turn out to be unreadable than may be left out.
    """
    parts = {"test": run.data.test, "validation": run.data.validation}
    parts = {name: images for name, images in parts.items() if images is not None}
    predict = Prediction(run.learner, FLAGS.evaluation_batch_size)
    if strategies.is_chief(run.strategy):
        callbacks = [
            StopAtNonFiniteLoss(),
            ShortProgress(),
            Evaluation(parts, predict, run.results, run.model_dir),
            SaveCheckpoint(run.checkpoints),
        ]
        verbose = 1 if sys.stdout.isatty() else 2  # a bar, or in a file a line an epoch
    else:
        callbacks = [StopAtNonFiniteLoss(), Evaluation(parts, predict, run.results, None)]
        verbose = 0
    with reading(run.data):
        for stretch in run.stretches:
            run.learner.fit(
                stretch.batches,
                steps_per_epoch=stretch.steps_per_epoch,
                initial_epoch=stretch.initial_epoch,
                epochs=stretch.epochs,
                callbacks=PacedCallbacks(
                    callbacks, run.learner, stretch.steps_per_epoch, stretch.epochs, verbose
                ),
                shuffle=False,  # the batches are shuffled already
                verbose=verbose,
            )


def finish(run: Run) -> None:
    """Exports the learner and prints the table of results.

    Raises:
        OSError: the export cannot be written.
    """
    if run.stretches or not tf.saved_model.contains_saved_model(FLAGS.export_dir):
        run.learner.export(FLAGS.export_dir)
    print(f"\n{run.model_dir} is finished, {FLAGS.steps} steps.", end="\n\n")
    if run.results.evaluations:
        print(table(run.results), end="\n\n")
    print(f"All evaluations: {run.results.path}\nExported model:  {FLAGS.export_dir}")


def _fail_alone(error: Exception) -> int:
    """Says that another worker is gone, where there are others; returns the exit code."""
    if FLAGS.strategy != "multi_worker":
        raise error
    return terminal.fail(
        f"stopped, another worker is gone ({type(error).__name__}). The same command on every"
        " worker goes on from the newest checkpoint.",
        1,
    )


def _belongs_to_another_run(export_dir: Path, model_dir: Path) -> bool:
    """Whether an export would replace that of another run, whose flag file was given here."""
    folder = export_dir.parent.resolve()
    return (folder / "flags.cfg").exists() and folder != model_dir.resolve()


def _check_unchanged(model_dir, checkpoints):
    """Refuses to go on with a run that was begun with other settings."""
    flags_file = model_dir / "flags.cfg"
    if not checkpoints.paths() or not flags_file.exists():
        return
    if changes := changes_since(flags_file):
        raise ValueError(
            f"{model_dir} was made with other settings ({'; '.join(changes)}). Give the same"
            " settings to go on with it, or another --model_dir to begin anew."
        )


def _write_images(images: Images | ImageFiles, class_names, directory, count):
    """Writes images spread over the test set as PNG files, named by class, to try the export on."""
    if not count:
        return
    directory.mkdir(exist_ok=True)
    members = np.linspace(0, len(images) - 1, min(count, len(images)), dtype=int)
    for index, image in zip(members, images.take(members), strict=True):
        name = f"{class_names[images.labels[index]]}_{index}.png"
        Image.fromarray(image).save(directory / name)
