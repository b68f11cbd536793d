"""Prepares a run: checks settings and data before any work starts, and writes what it is."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from daso_tf import encoders
from daso_tf.data import ImageFiles, Images, Rows, SemiSupervisedData, check_split
from daso_tf.data.loading import Selection
from daso_tf.data.places import in_memory
from daso_tf.platform import strategies
from daso_tf.platform.disk import naming
from daso_tf.platform.last_step import LastStep
from daso_tf.run import banks, data_file, precision
from daso_tf.run.calibrate import check_calibrates
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.comparison import check_answer
from daso_tf.run.distribution_estimate import check_estimates
from daso_tf.run.flags_file import (
    RULES,
    changes_since,
    continued,
    notes_of,
    with_network_of,
    write_flags_file,
)
from daso_tf.run.open_set import check_open_set
from daso_tf.run.report import LONGEST_NAME
from daso_tf.run.run import Run, begin
from daso_tf.run.selected import selected
from daso_tf.settings import automatic, combinations, limits
from daso_tf.settings.flag import as_text
from daso_tf.settings.flags import TRAIN, complete
from daso_tf.settings.methods import SELF_TRAINING, uses_unlabeled_images
from daso_tf.settings.settings import Settings
from daso_tf.step import device_images
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
    _check(automatic.with_network(settings))
    if settings.stop_after and settings.pseudo_labeler in SELF_TRAINING:
        raise ValueError(
            f"--stop_after does not go with --pseudo_labeler={settings.pseudo_labeler}: each "
            "generation begins with new weights, which are worse at first. Leave one of them out."
        )
    model_dir = Path(settings.model_dir)
    checkpoints = Checkpoints(model_dir / "checkpoints", keep=settings.keep_checkpoints)
    is_new = not checkpoints.paths()
    settings, selection, chosen = _settled(settings, model_dir, checkpoints)
    run_data = load_data(settings, checkpoints, selection)
    data = run_data.data
    if data.validation is None and (settings.best or settings.stop_after):
        flag = "--best" if settings.best else f"--stop_after={settings.stop_after}"
        raise ValueError(
            f"{flag} needs validation images: set some aside with --validation_size, or use data "
            "that has them. The test images must not choose."
        )
    check_calibrates(settings, data)
    check_open_set(settings, data)
    check_estimates(settings, data)
    check_answer(settings, data)
    settings, tried = precision.settled(settings, data)
    flags_file = model_dir / "flags.cfg"
    notes = tried or ([] if is_new else notes_of(flags_file, settings))
    last_step = last_step or LastStep()
    strategy = strategies.make(
        settings.strategy, settings.wait_for_workers, _identity(settings), last_step
    )
    check_split(settings.batch_size, strategy.num_replicas_in_sync)
    if settings.device_data:
        parts = [data.labeled, *([data.unlabeled] if uses_unlabeled_images(settings) else [])]
        device_images.check_fits(*map(in_memory, parts))
    if is_new:
        limits.check_cutout(settings, data.labeled.size)
    if strategies.is_chief(strategy):
        check_writable(settings.export_dir)
    data = banks.banked(settings, data)
    run = begin(settings, data, run_data.identity, checkpoints, strategy, last_step)
    run = run._replace(copies=run_data.copies)
    if strategies.is_chief(strategy):
        for line in (*chosen, *tried, *filter(None, [run_data.news])):
            print(line)
        _remove_leftovers(model_dir, settings.export_dir)
        model_dir.mkdir(parents=True, exist_ok=True)
        run_data.write(model_dir / data_file.NAME)
        write_flags_file(flags_file, settings, notes)
        banks.write_record(settings, data)
        if data.test is not None:
            folder = model_dir / "test_images"
            _write_images(data.test, data.class_names, folder, settings.test_images)
    return run


def _check(settings: Settings) -> None:
    """Finds out before data is read whether the settings go together and can be had here."""
    combinations.check(settings)
    encoders.check(settings.encoder, settings.encoder_weights)
    banks.check(settings)


def load_data(
    settings: Settings, checkpoints: Checkpoints, selection: Selection | None = None
) -> data_file.RunData:
    """Loads the data and checks that it is that of the run.

    Args:
        settings: Those of the run, completed.
        checkpoints: Those of the run.
        selection: The images; by default those that the settings select.
    """
    if selection is None:
        selection = _without_copies(selected(settings), settings)
    stream = {"auto": None, "true": True, "false": False}[settings.stream]
    data = selection.read(settings.source_size, settings.resolution, stream, settings.max_bad_files)
    if settings.labeled_among_unlabeled:
        data = data.with_labeled_among_unlabeled()
    _note_missing_parts(settings, data)
    run_data = data_file.continue_with(
        data,
        settings.data_dir,
        Path(settings.model_dir),
        bool(checkpoints.paths()),
        settings.adopt_data,
    )
    checkpoints.unlabeled = run_data.unlabeled
    return run_data._replace(copies=selection.known_copies)


def _identity(settings: Settings) -> str:
    """Returns a hash of what all workers of a run must have in common."""
    shared = (name for name in sorted(TRAIN.keys() - _OF_ONE_WORKER))
    texts = [f"{name}={as_text(settings[name])}" for name in shared if settings[name] is not None]
    return hashlib.sha256("\n".join([f"rules={RULES}", *texts]).encode()).hexdigest()[:32]


def _without_copies(selection: Selection, settings: Settings) -> Selection:
    return selection.without(selection.copies()) if settings.drop_copies else selection


def _settled(
    settings: Settings, model_dir: Path, checkpoints: Checkpoints
) -> tuple[Settings, Selection, list[str]]:
    """Settles what the flags leave open: by the run so far, or else by the data and the machine.

    Args:
        settings: Those that were given, completed.
        model_dir: The folder of the run.
        checkpoints: Those of the run so far.

    Returns:
        The settings of the run, its images, and the lines that say what was chosen.
    """
    is_new, flags_file = not checkpoints.paths(), model_dir / "flags.cfg"
    if is_new:
        limits.check_effects(settings)
    else:
        settings = continued(flags_file, settings)
        _check(settings)
        _check_unchanged(settings, model_dir, checkpoints)
    selection = _without_copies(selected(settings), settings)
    lines: list[str] = []
    if is_new or not flags_file.exists():
        if settings.from_model_dir:
            settings = with_network_of(Path(settings.from_model_dir), settings)
        settings, lines = automatic.fitted(settings, selection)
        _check(settings)
        if is_new:
            limits.check_effects(settings)
    return _shortened(settings) if is_new else settings, selection, lines


def _shortened(settings: Settings) -> Settings:
    """Shortens a default that is too long for a run that starts."""
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


def _write_images(
    images: Images | ImageFiles | Rows, class_names: tuple[str, ...], directory: Path, count: int
) -> None:
    """Writes images spread over the test set as PNG files, named by class, to try the export."""
    if not count:
        return
    if isinstance(images, Rows) and images.pictures is not None:
        images = images.pictures
    directory.mkdir(exist_ok=True)
    members = np.linspace(0, len(images) - 1, min(count, len(images)), dtype=int)
    for index, image in zip(members, images.take(members), strict=True):
        class_name = class_names[images.labels[index]].replace("/", "_")[:LONGEST_NAME]
        name = f"{class_name}_{index}.png"
        with naming(directory / name):
            Image.fromarray(image).save(directory / name)
