"""The train command with a frozen encoder."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from command import arguments, completed, run_train
from scipy.special import softmax

from daso_tf import data
from daso_tf.commands import export, predict, terminal
from daso_tf.platform.npz import ArrayFile
from daso_tf.run import calibrate, finishing, left_out
from daso_tf.run.inspection import answers
from daso_tf.run.of_folder import settings_of
from daso_tf.settings import combinations

FROZEN = dict(freeze_encoder=True, adapter_units=8, bank_weak_views=2, bank_strong_views=1)


def frozen(cache_dir, model_dir, **settings) -> list[str]:
    return arguments(**FROZEN, cache_dir=cache_dir, model_dir=model_dir, **settings)


def ran(*argv) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert run_train(*argv) == 0
    return output.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frozen")


@pytest.fixture(scope="module")
def student(folder):
    """A run with all defaults for frozen features."""
    output = ran(
        *frozen(folder / "cache", folder / "student", steps=6, evaluate_every=3, test_images=2),
        "--answer=auto",
    )
    return folder / "student", output


def arrays(model_dir, step):
    with ArrayFile(model_dir / "checkpoints" / f"step_{step:08d}.npz") as file:
        return {name: file[name] for name in file.headers}


def test_the_defaults_are_those_for_frozen_features():
    settings = completed("--dataset=digits", "--freeze_encoder")
    assert (settings.learner, settings.pseudo_labeler) == ("student", "lda_teacher")
    assert (settings.weight_decay, settings.logit_adjustment, settings.cosine) == (0.01, 1, "half")
    settings = completed("--dataset=digits", "--freeze_encoder", "--pseudo_labeler=daso")
    assert (settings.learner, settings.weight_decay) == ("fixmatch", 0.03)
    settings = completed("--dataset=digits", "--freeze_encoder", "--learner=supervised")
    assert (settings.learning_rate, settings.pseudo_labeler) == (0.03, "linear")
    simpro = ["--dataset=digits", "--pseudo_labeler=simpro"]
    for more, tau in (
        ([], 2),
        (["--freeze_encoder"], 1),
        (["--freeze_encoder", "--simpro_tau=2"], 2),
    ):
        assert completed(*simpro, *more).simpro_tau == tau
    settings = completed("--dataset=digits")
    assert (settings.learner, settings.weight_decay, settings.cosine) == ("fixmatch", 5e-4, "none")


@pytest.mark.parametrize(
    "balance",
    [
        "--balanced_head=abc",
        "--balanced_head=acr --pseudo_labeler=linear",
        "--supervised_loss=ldam --learner=supervised",
        "--pseudo_labeler=simpro",
        "--pseudo_labeler=daso --test_logit_adjustment=1",
    ],
)
def test_another_way_to_counter_the_imbalance_replaces_the_default(balance):
    settings = completed("--dataset=digits", "--freeze_encoder", *balance.split())
    assert settings.logit_adjustment == 0
    combinations.check(settings)


def test_a_run_says_what_unlabeled_images_changed(student):
    model_dir, output = student
    assert "Does unlabeled data help here?" in output
    for row in ("this run", "labels only", "unlabeled images changed", "linear discriminant"):
        assert row in output
    results = json.loads((model_dir / "results.json").read_text())
    assert results["comparison"]["parts"]["test"].keys() >= {"run", "labels_only", "neighbors"}
    assert results["comparison"]["changes"]["test"].keys() == {"all", "head", "medium", "tail"}
    answer = results["comparison"]["answer"]
    assert answer["by"] == "validation" and f"{answer['exported']}" in ("run", "labels_only")
    own = results["comparison"]["parts"]["test"][answer["exported"]]
    assert own["accuracy"] == results["exported"]["test"]["accuracy"]


def test_the_export_takes_pictures(student, tmp_path):
    model_dir, _ = student
    results = tmp_path / "answers.csv"
    code = terminal.call(
        predict.COMMAND,
        [f"--model={model_dir}/export", f"--output={results}", f"{model_dir}/test_images"],
    )
    assert code == 0
    with open(results) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(0 < float(row["probability"]) <= 1 for row in rows)


def test_another_method_reads_the_bank(student, folder):
    for learner in ("--learner=supervised", "--learner=mean_teacher"):
        name = learner.partition("=")[2]
        output = ran(*frozen(folder / "cache", folder / name, steps=3, evaluate_every=3), learner)
        assert "read from the cache" in output


def test_a_continued_run_is_the_same_bit_for_bit(student, folder):
    whole, _ = student
    stopped = folder / "stopped"
    # The rate falls over all steps, which a run in two parts must be told.
    argv = frozen(folder / "cache", stopped, steps=6, evaluate_every=3)
    ran(*argv)
    (stopped / "checkpoints" / "step_00000006.npz").unlink()
    ran(*argv)
    expected, found = arrays(whole, 6), arrays(stopped, 6)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)


def test_the_twin_can_be_exported_afterwards(student, tmp_path):
    model_dir, _ = student
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = terminal.call(
            export.COMMAND,
            [str(model_dir), "--answer=labels_only", f"--export_dir={tmp_path}/twin"],
        )
    assert code == 0 and (tmp_path / "twin" / "saved_model.pb").is_file()
    assert "the twin that learned from labels only (--answer=labels_only)" in output.getvalue()
    assert "Training the twin" not in output.getvalue()


def test_without_validation_images_labeled_ones_are_left_out_in_turn(folder, monkeypatch):
    monkeypatch.setattr(left_out, "FOLDS", 2)
    argv = frozen(folder / "cache", folder / "no_validation", steps=2, evaluate_every=2)
    output = ran(*argv, "--validation_size=0", "--answer=auto", "--calibrate=temperature")
    assert "on labeled images that were left out in turn" in output
    found = json.loads((folder / "no_validation" / "results.json").read_text())
    count = sum(found["labeled_counts"])
    assert f"calibrated on {count} labeled images that were left out in turn" in output
    fitted = found["exported"]["calibrated"]
    assert (fitted["fitted_to"], fitted["measured_on"]) == ("labeled", "test")
    assert fitted["temperature"] != 1 and not any(fitted["bias"])


def test_labeled_images_calibrate_for_the_shares_that_are_answered(student, folder, monkeypatch):
    """Frozen features come with logit adjustment: the answers treat all classes alike."""
    labels = []

    def synthetic(settings, data):
        labels.append(data.labeled.labels)
        random = np.random.default_rng(0).uniform(0.5, 1, (len(labels[0]), data.num_classes))
        right = 3 * np.eye(data.num_classes)[labels[0]]
        logits.append(np.log(random) + right)
        return [softmax(logits[0], axis=1)], np.arange(len(labels[0]))

    logits = []
    monkeypatch.setattr(calibrate, "left_out", synthetic)
    argv = frozen(folder / "cache", folder / "vector", steps=2, evaluate_every=2)
    ran(*argv, "--validation_size=0", "--calibrate=vector")
    fitted = json.loads((folder / "vector" / "results.json").read_text())["exported"]["calibrated"]
    moved = softmax(logits[0] / fitted["temperature"] + fitted["bias"], axis=1)
    of_classes = [moved[labels[0] == k].mean(axis=0) for k in range(10)]
    np.testing.assert_allclose(np.mean(of_classes, axis=0), 0.1, atol=0.005)
    assert np.ptp(moved.mean(axis=0)) > 0.05  # the labeled images are not evenly distributed


def test_no_network_predicts_a_labeled_image_that_it_has_learned(monkeypatch):
    @dataclasses.dataclass
    class Bank:
        labeled: data.Images
        num_classes: int = 3

    images = data.Images(
        np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1) * np.ones((1, 1, 1, 3), np.uint8),
        np.array([0] * 7 + [1] * 4 + [2]),
    )
    learned = []

    def trained(settings, part):
        learned.append({int(image[0, 0, 0]) for image in part.labeled.images})
        assert set(part.labeled.labels.tolist()) == {0, 1, 2}
        return learned[-1]

    def prediction(model, size):
        return lambda held_out: np.array(
            [[0, float(image[0, 0, 0] in model), int(image[0, 0, 0])] for image in held_out.images]
        )

    monkeypatch.setattr(left_out, "trained", trained)
    monkeypatch.setattr(left_out, "Prediction", prediction)
    settings = completed("--dataset=digits", "--freeze_encoder", "--batch_size=8")
    found, places = left_out.left_out([settings, settings], Bank(images))
    assert sorted(places.tolist()) == list(range(11))  # not the only image of class 2
    for predicted in found:
        np.testing.assert_array_equal(predicted[:, 1], 0)
        np.testing.assert_array_equal(predicted[:, 2], places)
    assert len(learned) == 10
    nothing, places = left_out.left_out([settings.replace(batch_size=20)], Bank(images))
    assert nothing[0].shape == (0, 3) and not len(places)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--learner=mixmatch"], "--freeze_encoder does not go with --learner=mixmatch: it mixes"),
        (["--learner=remixmatch"], "--learner=remixmatch: it mixes and rotates"),
        (["--strategy=mirrored"], "--freeze_encoder does not go with --strategy=mirrored"),
        (["--max_bank_gigabytes=0.000001"], "more than --max_bank_gigabytes=1e-06"),
        (["--cache_dir=/dev/null/cache"], "--cache_dir=/dev/null/cache cannot be written"),
        (["--learner=supervised", "--answer=auto"], "--answer=auto does not go with"),
        (["--nofreeze_encoder", "--pseudo_labeler=lda_teacher"], "give --freeze_encoder"),
        (["--nofreeze_encoder", "--answer=auto"], "give --compare_labels_only or --freeze_encoder"),
        (
            ["--validation_size=0", "--calibrate=vector", "--labeled_imbalance=6"],
            "--calibrate=vector needs at least two labeled images of each class",
        ),
        (
            ["--validation_size=0", "--calibrate=vector", "--answer=discriminant"],
            "--calibrate=vector with --answer=discriminant needs validation images",
        ),
        (
            ["--validation_size=0", "--calibrate=temperature", "--finetune_steps=2"],
            "--calibrate=temperature with --finetune_steps=2 needs validation images",
        ),
        (
            [
                "--validation_size=0",
                "--calibrate=temperature",
                "--labeled_head=1",
                "--labeled_imbalance=1",
            ],
            "--calibrate=temperature needs a class with at least two labeled images",
        ),
        (
            ["--validation_size=0", "--calibrate=temperature", "--batch_size=32"],
            "the others are less than --batch_size=32",
        ),
    ],
)
def test_refused_before_work_starts(flags, message, folder, tmp_path, capsys):
    argv = frozen(folder / "cache", tmp_path / "run", steps=2, evaluate_every=2)
    assert run_train(*argv, *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_bank_of_another_encoder_is_refused(student, folder, capsys):
    model_dir, _ = student
    record = model_dir / "frozen_encoder.json"
    content = record.read_text()
    record.write_text(json.dumps({"encoder": "wrn_10_1", "weights": "others"}))
    try:
        argv = frozen(folder / "cache", model_dir, steps=6, evaluate_every=3, test_images=2)
        assert run_train(*argv) == 2
    finally:
        record.write_text(content)
    assert "was trained on features of another encoder" in capsys.readouterr().err


def test_a_report_asks_for_the_features_of_the_bank(student, tmp_path, monkeypatch):
    asked = []

    def batches(images, size):
        asked.append(type(images))
        return data.evaluation_batches(images, size)

    monkeypatch.setattr(answers, "evaluation_batches", batches)
    shutil.copytree(student[0], tmp_path / "run")
    page = finishing.report(settings_of(tmp_path / "run"))
    assert "on the features of the frozen encoder" in page.read_text()
    assert set(asked) == {data.Rows} and len(asked) >= 3  # labeled, unlabeled and test images
