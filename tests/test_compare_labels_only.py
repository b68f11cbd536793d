"""`--compare_labels_only`: the twin of a run whose encoder is trained."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from command import arguments, completed, run_train

from daso_tf.commands import export, terminal
from daso_tf.platform.last_step import LastStep
from daso_tf.platform.npz import ArrayFile
from daso_tf.run.callbacks import Stopped
from daso_tf.run.preparation import prepare
from daso_tf.run.run import train
from daso_tf.run.twin import train_twin, twin_settings

STEPS = 4


def command(model_dir, *more):
    sizes = {"steps": STEPS, "evaluate_every": 2, "pseudo_labeler": "linear"}
    return [*arguments(model_dir=model_dir, **sizes), "--compare_labels_only", *more]


def ran(*argv):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert run_train(*argv) == 0
    return output.getvalue()


def exported(model_dir, *flags):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = terminal.call(export.COMMAND, [str(model_dir), *flags])
    return code, output.getvalue()


def results(model_dir):
    return json.loads((model_dir / "results.json").read_text())


def arrays(model_dir):
    with ArrayFile(model_dir / "checkpoints" / f"step_{STEPS:08d}.npz") as file:
        return {name: file[name] for name in file.headers}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with its twin, and what it printed."""
    model_dir = tmp_path_factory.mktemp("whole") / "run"
    return model_dir, ran(*command(model_dir, "--answer=auto"))


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the folder of that run, to continue it."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


def test_table_and_file_say_what_unlabeled_images_changed(whole):
    model_dir, output = whole
    table = output[output.index("Does unlabeled data help here?") :]
    for row in ("this run", "labels only", "unlabeled images changed"):
        assert row in table
    assert "nearest class mean" not in table
    compared = results(model_dir)["comparison"]
    assert compared["parts"]["test"].keys() == {"run", "labels_only"}
    assert compared["changes"]["test"].keys() == {"all", "head", "medium", "tail"}
    assert compared["answer"]["by"] == "validation"
    scores = compared["parts"]["test"][compared["answer"]["exported"]]
    assert results(model_dir)["exported"]["test"] == scores


def test_the_twin_is_evaluated_as_often_as_the_run(whole):
    model_dir, _ = whole
    of_twin = results(model_dir / "labels_only")
    steps = [evaluation["step"] for evaluation in of_twin["evaluations"]]
    assert steps == [evaluation["step"] for evaluation in results(model_dir)["evaluations"]]
    last = of_twin["evaluations"][-1]["test"]["accuracy"]
    assert results(model_dir)["comparison"]["parts"]["test"]["labels_only"]["accuracy"] == last


def test_the_same_command_again_trains_nothing(whole, copy):
    output = ran(*command(copy, "--answer=auto"))
    assert "Training the twin" not in output
    assert results(copy)["comparison"] == results(whole[0])["comparison"]


@pytest.mark.parametrize("part", [".", "labels_only"])
def test_a_run_that_was_killed_in_either_part_ends_as_a_whole_one(part, whole, copy):
    if part == ".":  # the twin comes after the run
        shutil.rmtree(copy / "labels_only")
    (copy / part / "checkpoints" / f"step_{STEPS:08d}.npz").unlink()
    ran(*command(copy, "--answer=auto"))
    for folder in (".", "labels_only"):
        assert_same(arrays(whole[0] / folder), arrays(copy / folder))
    assert results(copy)["comparison"] == results(whole[0])["comparison"]


def test_the_twin_stops_after_the_present_step(whole, copy):
    (copy / "labels_only" / "checkpoints" / f"step_{STEPS:08d}.npz").unlink()
    last_step = LastStep()
    run = train(prepare(completed(*command(copy)), last_step))
    last_step.unsaved = True
    last_step.request()
    with pytest.raises(Stopped) as stopped:
        train_twin(run)
    assert stopped.value.step == STEPS // 2 + 1
    ran(*command(copy))
    assert_same(arrays(whole[0] / "labels_only"), arrays(copy / "labels_only"))


def test_either_can_be_exported_afterwards(copy, tmp_path):
    code, output = exported(copy, "--answer=labels_only", f"--export_dir={tmp_path}/twin")
    assert code == 0 and "the twin that learned from labels only" in output
    assert "is the twin of that run" in (tmp_path / "twin" / "MODEL.md").read_text()
    code, output = exported(copy, "--answer=run")
    assert code == 0 and "Exported: this run (--answer=run)." in output
    assert results(copy)["comparison"]["answer"] == {"asked": "run", "exported": "run"}


def test_without_its_twin_only_the_run_can_be_exported(copy, tmp_path, capsys):
    shutil.rmtree(copy / "labels_only")
    code, _ = exported(copy, "--answer=labels_only", f"--export_dir={tmp_path}/twin")
    assert code == 2 and "has no finished twin" in capsys.readouterr().err
    assert exported(copy, "--answer=run", f"--export_dir={tmp_path}/export")[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learner=supervised"], "--compare_labels_only does not go with --learner=supervised"),
        (["--answer=auto", "--validation_size=0"], "--answer=auto needs validation images"),
        (["--answer=logistic"], "give --freeze_encoder"),
        (["--nocompare_labels_only", "--answer=auto"], "give --compare_labels_only or --freeze"),
    ],
)
def test_refused_before_work_starts(flags, message, tmp_path, capsys):
    assert run_train(*command(tmp_path / "run", *flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_twin_counters_the_imbalance_where_the_run_does():
    flags = ["--dataset=digits", "--steps=10"]
    assert twin_settings(completed(*flags)).logit_adjustment == 0
    for more in ("--balanced_head=abc", "--pseudo_labeler=simpro"):
        twin = twin_settings(completed(*flags, more))
        assert (twin.balanced_head, twin.logit_adjustment) == ("none", 1)
    twin = twin_settings(completed(*flags, "--test_logit_adjustment=1"))
    assert (twin.test_logit_adjustment, twin.logit_adjustment) == (1, 0)
