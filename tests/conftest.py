"""What several test files share."""

import contextlib
import io
import signal
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from command import arguments, run_train

# These files run with the newest versions only. Some test what does not depend on the version of
# Keras or TensorFlow: image files and folders, splits, flags, documents, locks, damaged files,
# signals, reports, the output of commands, and which step of a run is evaluated, exported or
# continued. Others, such as `test_paper_cells.py` and `test_open_set.py`, take minutes to combine
# parts further: with both versions, `test_contract.py` trains, saves and loads every part, and
# `test_recordings.py` replays every method.
ANY_VERSION = (
    "test_augment_policies.py",
    "test_augment_preview.py",
    "test_automatic.py",
    "test_bank_parts.py",
    "test_best.py",
    "test_calibrate.py",
    "test_checkpoint_every.py",
    "test_class_order.py",
    "test_class_shares_of_few_labels.py",
    "test_closed_form_answers.py",
    "test_combinations.py",
    "test_commands.py",
    "test_compare_labels_only.py",
    "test_conformal.py",
    "test_copies.py",
    "test_damaged_files.py",
    "test_damaged_inputs.py",
    "test_data_archives.py",
    "test_data_benchmarks.py",
    "test_data_decode.py",
    "test_data_describe.py",
    "test_data_examples.py",
    "test_data_hostile_input.py",
    "test_data_identity.py",
    "test_data_image_folder.py",
    "test_data_long_tail.py",
    "test_data_paper_settings.py",
    "test_data_semi_aves.py",
    "test_data_stream.py",
    "test_deploy.py",
    "test_docs.py",
    "test_drawn_results.py",
    "test_encoders_pytorch_file.py",
    "test_export_command.py",
    "test_flags.py",
    "test_folder_names.py",
    "test_frozen_command.py",
    "test_full_disk.py",
    "test_generations.py",
    "test_generations_select.py",
    "test_gpu_program.py",
    "test_image_limits.py",
    "test_image_list.py",
    "test_learners_command.py",
    "test_limits_of_values.py",
    "test_methods_benchmark.py",
    "test_missing_parts.py",
    "test_model_card.py",
    "test_names_shown.py",
    "test_notebooks.py",
    "test_one_run_per_folder.py",
    "test_open_set.py",
    "test_open_set_rebalancers.py",
    "test_package.py",
    "test_paper_cells.py",
    "test_paths_and_text.py",
    "test_predict_for_classes.py",
    "test_predict_many.py",
    "test_reduced_decoding.py",
    "test_rendezvous.py",
    "test_replay.py",
    "test_report.py",
    "test_results.py",
    "test_scoreboard.py",
    "test_side_by_side.py",
    "test_signals.py",
    "test_signals_of_processes.py",
    "test_unlabeled_distribution.py",
    "test_viewer.py",
    "test_what_is_taught.py",
)
collect_ignore = [] if version("keras").startswith("3.") else [*ANY_VERSION]

# The files that take longest come first, the longest before all. Otherwise one worker would still
# be busy with one of them when the others have nothing left.
LONGEST = (
    "test_contract.py",
    "test_recordings.py",
    "test_paper_cells.py",
    "test_strategies_workers.py",
    "test_compare_labels_only.py",
    "test_strategies.py",
    "test_open_set.py",
    "test_saved_before.py",
    "test_generations.py",
    "test_best.py",
    "test_learners.py",
    "test_learners_training.py",
    "test_replay.py",
    "test_train.py",
    "test_full_disk.py",
    "test_data_identity.py",
    "test_signals_of_processes.py",
    "test_augment_policies.py",
    "test_augment_ops.py",
)


def pytest_collection_modifyitems(items):
    """Sorts the files; the order of tests within a file stays the same."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


# A shell starts programs in the background with SIGINT ignored, and commands keep that. Tests send
# SIGINT to commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


class FinishedRun(NamedTuple):
    """A run of the train command that nobody changes."""

    model_dir: Path
    exit_code: int
    output: str


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> FinishedRun:
    """Five steps on the digits, evaluated after steps 2, 4 and 5, then exported."""
    model_dir = tmp_path_factory.mktemp("finished") / "run"
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exit_code = run_train(
            *arguments(model_dir=model_dir, steps=5, evaluate_every=2, test_images=3)
        )
    return FinishedRun(model_dir, exit_code, output.getvalue())
