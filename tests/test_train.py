"""The train command: what a run writes, what is refused, what stops it."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from command import SMALL, arguments, parsed, run_train
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from daso_tf.balance import SupervisedLoss
from daso_tf.commands import train


def results_of(model_dir):
    return json.loads((model_dir / "results.json").read_text())


def checkpoints_of(model_dir):
    return sorted(path.name for path in (model_dir / "checkpoints").iterdir())


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """A copy of the finished run, which a test may change."""
    shutil.copytree(finished_run.model_dir, tmp_path / "run")
    return tmp_path / "run"


def test_run_writes_checkpoints_export_events_and_flags(finished_run):
    assert finished_run.exit_code == 0
    model_dir = finished_run.model_dir
    assert checkpoints_of(model_dir) == [f"step_0000000{step}.npz" for step in (2, 4, 5)]
    assert tf.saved_model.contains_saved_model(str(model_dir / "export"))
    assert list(model_dir.glob("events.out.tfevents.*"))
    with Image.open(model_dir / "results.png") as picture:
        picture.verify()
    with_flags_file = parsed(f"--flagfile={model_dir / 'flags.cfg'}")
    assert {name: with_flags_file[name] for name in SMALL} == SMALL
    assert with_flags_file["export_dir"] == str(model_dir / "export")


def test_every_evaluation_is_recorded(finished_run):
    results = results_of(finished_run.model_dir)
    assert [entry["step"] for entry in results["evaluations"]] == [2, 4, 5]
    assert results["labeled_counts"] == [6, 5, 4, 4, 3, 3, 2, 2, 2, 2]
    assert results["unlabeled_counts"] == [12, 10, 9, 8, 7, 6, 5, 5, 4, 4]
    for entry in results["evaluations"]:
        for part in ("test", "validation"):
            for scores in (entry[part], entry[part]["logit_adjusted"]):
                # These parts are balanced, so both accuracies are the mean of the recalls.
                assert scores["accuracy"] == pytest.approx(np.mean(scores["recall"]))
                assert scores["balanced_accuracy"] == pytest.approx(scores["accuracy"])
    accuracies = [entry["test"]["accuracy"] for entry in results["evaluations"]]
    assert results["median_of_last_20"]["test"]["accuracy"] == np.median(accuracies)


def test_semantic_pseudo_labels_are_counted_after_pretraining(finished_run):
    pretraining, *after = [
        entry["pseudo_labels"] for entry in results_of(finished_run.model_dir)["evaluations"]
    ]
    assert set(pretraining) == {"linear", "semantic", "final"}
    assert set(pretraining["semantic"]["precision"]) == {None}
    assert sum(pretraining["semantic"]["assigned"]) == 0
    assert sum(pretraining["final"]["assigned"]) == 2 * 16  # two steps of 16 unlabeled images
    assert pretraining["final"] == pretraining["linear"]
    for pseudo_labels in after:
        for kind in ("linear", "semantic", "final"):
            known = [share for share in pseudo_labels[kind]["recall"] if share is not None]
            assert known and all(0 <= share <= 1 for share in known)


def test_tensorboard_shows_the_evaluations_over_the_steps(finished_run):
    events = EventAccumulator(str(finished_run.model_dir)).Reload()
    recorded = {}
    for event in events.Tensors("test/accuracy"):
        recorded[event.step] = float(tf.make_ndarray(event.tensor_proto))
    evaluations = results_of(finished_run.model_dir)["evaluations"]
    assert recorded == pytest.approx(
        {entry["step"]: entry["test"]["accuracy"] for entry in evaluations}
    )
    assert {"train/loss", "train/mask_rate", "validation/logit_adjusted_accuracy"} <= set(
        events.Tags()["tensors"]
    )


def test_run_ends_with_a_table(finished_run):
    lines = finished_run.output.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("class "))
    recall = results_of(finished_run.model_dir)["evaluations"][-1]["test"]["recall"]
    assert lines[header + 2].split()[:4] == ["0", "6", "12", f"{100 * recall[0]:.1f}"]
    assert lines[header + 11].split()[:3] == ["9", "2", "4"]


def test_test_images_are_written_named_by_class(finished_run):
    paths = sorted((finished_run.model_dir / "test_images").iterdir())
    assert len(paths) == 3
    for path in paths:
        assert path.stem.split("_")[0] in "0123456789"
        with Image.open(path) as image:
            assert image.size == (8, 8)


def test_repeated_command_does_not_train_but_exports_again(copied_run, capsys):
    before = (copied_run / "results.json").read_bytes(), checkpoints_of(copied_run)
    shutil.rmtree(copied_run / "export")
    command = arguments(model_dir=copied_run, steps=5, evaluate_every=2)
    assert run_train(*command) == 0
    assert ((copied_run / "results.json").read_bytes(), checkpoints_of(copied_run)) == before
    assert tf.saved_model.contains_saved_model(str(copied_run / "export"))
    output = capsys.readouterr().out
    assert "finished" in output and "pseudo-label recall" in output


def test_finished_run_continues_for_more_steps(copied_run):
    assert run_train(*arguments(model_dir=copied_run, steps=7, evaluate_every=2)) == 0
    steps = [entry["step"] for entry in results_of(copied_run)["evaluations"]]
    assert steps == [2, 4, 5, 6, 7]
    assert checkpoints_of(copied_run) == [f"step_0000000{step}.npz" for step in (5, 6, 7)]
    assert "--steps=7\n" in (copied_run / "flags.cfg").read_text()


def test_other_settings_are_refused_with_the_flags_that_differ(copied_run, capsys):
    before = (copied_run / "flags.cfg").read_text()
    command = arguments(model_dir=copied_run, steps=9, evaluate_every=2, seed=1, batch_size=4)
    assert run_train(*command) == 2
    message = capsys.readouterr().err
    assert "--batch_size: 8 there, 4 now; --seed: 0 there, 1 now" in message
    assert "--model_dir" in message and "--steps" not in message
    assert (copied_run / "flags.cfg").read_text() == before


def test_fewer_steps_than_done_are_refused(copied_run, capsys):
    assert run_train(*arguments(model_dir=copied_run, steps=4, evaluate_every=2)) == 2
    assert "--steps=4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "mnist_lt"}, "mnist_lt"),
        ({"dataset": "image_folder", "data_dir": "nowhere"}, "nowhere"),
        ({"batch_size": 1000}, "1000"),
        ({"labeled_head": 100000}, "100000"),
        ({"encoder": "vgg"}, "vgg"),
        ({"encoder_weights": "nowhere.weights.h5"}, "nowhere.weights.h5"),
    ],
)
def test_unusable_settings_are_refused_before_training(tmp_path, capsys, settings, said):
    assert run_train(*arguments(model_dir=tmp_path / "run", **settings)) == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message
    assert not (tmp_path / "run").exists()


def test_argument_that_is_not_a_flag_is_refused(tmp_path, capsys):
    assert run_train("steps=3", *arguments(model_dir=tmp_path / "run")) == 2
    assert "'steps=3'" in capsys.readouterr().err


def test_loss_that_is_not_finite_stops_the_run(tmp_path, capsys, monkeypatch):
    loss = SupervisedLoss.class_losses

    def spoilt_at_step_4(self, logits, step):
        return tf.where(tf.equal(step, 3), float("nan"), 1.0) * loss(self, logits, step)

    monkeypatch.setattr(SupervisedLoss, "class_losses", spoilt_at_step_4)
    model_dir = tmp_path / "run"
    assert run_train(*arguments(model_dir=model_dir, steps=8, evaluate_every=2)) == 1
    message = capsys.readouterr().err
    assert "step 4" in message and "supervised_loss nan" in message
    assert "consistency_loss" in message
    assert checkpoints_of(model_dir) == ["step_00000002.npz"]
    assert [entry["step"] for entry in results_of(model_dir)["evaluations"]] == [2]


def test_interrupted_run_says_how_it_continues(tmp_path, capsys, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupt)
    assert run_train(*arguments(model_dir=tmp_path / "run")) == 130
    assert "continues" in capsys.readouterr().err


def test_missing_data_set_is_refused_with_the_known_ones(tmp_path, capsys):
    assert run_train(f"--model_dir={tmp_path / 'run'}") == 2
    message = capsys.readouterr().err
    assert "digits" in message and "image_folder" in message
    assert not (tmp_path / "run").exists()


def test_flags_of_another_run_do_not_replace_its_export(copied_run, tmp_path):
    exported = (copied_run / "export" / "saved_model.pb").read_bytes()
    # The export folder is in the flag file of that run.
    settings = arguments(model_dir=tmp_path / "new", export_dir=copied_run / "export")
    assert run_train(*settings, "--steps=1", "--pretrain_steps=0", "--logit_adjustment=1") == 0
    assert (copied_run / "export" / "saved_model.pb").read_bytes() == exported
    assert tf.saved_model.contains_saved_model(str(tmp_path / "new" / "export"))
