"""The learners on the command line: their papers' settings, refusals, the learning rate."""

import json

import keras
import numpy as np
import pytest
from absl.flags import IllegalFlagValueError
from command import arguments, completed, run_train

from daso_tf.settings.optimizers import WarmUp, learning_rate


@pytest.mark.parametrize(
    ("learner", "paper"),
    [
        ("fixmatch", {"unlabeled_weight": 1.0, "ramp_fraction": 0.0, "pseudo_labeler": "daso"}),
        ("supervised", {"pseudo_labeler": "linear"}),
        ("pseudo_label", {"unlabeled_weight": 1.0, "ramp_fraction": 0.4}),
        ("mean_teacher", {"unlabeled_weight": 50.0, "ramp_fraction": 0.4, "alignment_weight": 0}),
        ("mixmatch", {"unlabeled_weight": 100.0, "ramp_fraction": 0.016, "mixup_beta": 0.5}),
        ("remixmatch", {"unlabeled_weight": 1.5, "mixup_beta": 0.75, "alignment_weight": 1.0}),
        ("usadtm", {"confidence_threshold": 0.85, "pretrain_steps": 500}),
    ],
)
def test_each_learner_has_its_papers_settings(learner, paper):
    values = completed(f"--learner={learner}")
    assert {name: values[name] for name in paper} == paper
    assert completed("--learner=fixmatch")["unlabeled_weight"] == 1.0


def test_a_given_flag_keeps_its_value():
    values = completed("--learner=mixmatch", "--unlabeled_weight=7", "--alignment_weight=1")
    assert (values["unlabeled_weight"], values["alignment_weight"]) == (7.0, 1.0)
    assert values["ramp_fraction"] == 0.016


@pytest.mark.parametrize("learner", ["supervised", "usadtm"])
def test_learner_without_pseudo_labeler_names_the_reason(learner, tmp_path, capsys):
    command = arguments(learner=learner, pseudo_labeler="daso", model_dir=tmp_path / "run")
    assert run_train(*command) == 2
    message = capsys.readouterr().err
    assert f"--pseudo_labeler=daso does not go with --learner={learner}: it" in message


def test_supervised_run_reports_no_pseudo_labels(tmp_path, capsys):
    model_dir = tmp_path / "run"
    settings = {"learner": "supervised", "steps": 2, "evaluate_every": 2}
    schedule = {"warmup_steps": 2, "learning_rate_drops": "1,2"}
    command = arguments(model_dir=model_dir, **settings, **schedule)
    assert run_train(*command) == 0
    output = capsys.readouterr().out
    assert "recall %" in output and "pseudo-label" not in output
    results = json.loads((model_dir / "results.json").read_text())
    assert results["evaluations"][0]["pseudo_labels"] == {}
    assert (model_dir / "results.png").stat().st_size > 0
    # The flag file of the run describes the same run, which is finished.
    assert run_train(f"--flagfile={model_dir / 'flags.cfg'}") == 0


def test_learning_rate_of_every_step():
    schedule = learning_rate(0.1, warmup_steps=4, drops=[6, 8], drop=0.01)
    rates = [float(schedule(np.int64(step))) for step in range(10)]
    expected = [0, 0.025, 0.05, 0.075, 0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert learning_rate(0.1) == 0.1
    with pytest.raises(ValueError, match="must ascend"):
        learning_rate(0.1, drops=[8, 6])


@pytest.mark.parametrize("drops", [[], [6]])
def test_learning_rate_is_part_of_the_optimizers_config(drops):
    schedule = learning_rate(0.1, warmup_steps=4, drops=drops)
    assert isinstance(schedule, WarmUp)
    optimizer = keras.optimizers.SGD(schedule)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config()["learning_rate"] == optimizer.get_config()["learning_rate"]
    rate = WarmUp.from_config(schedule.get_config())
    assert [float(rate(step)) for step in range(9)] == [float(schedule(step)) for step in range(9)]


def test_steps_of_the_drops_must_be_numbers():
    with pytest.raises(IllegalFlagValueError, match="whole numbers"):
        completed("--learning_rate_drops=200,soon")
