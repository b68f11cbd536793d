"""`--best` and `--stop_after`: the validation images decide, also in a run that was interrupted."""

import json
import shutil

import pytest
from command import arguments, run_train
from test_checkpoint_every import checkpoints_of, interrupted_at
from test_resume import small_learner

from daso_tf.commands import terminal
from daso_tf.commands.export import COMMAND
from daso_tf.run import exported
from daso_tf.run.callbacks import Evaluation
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.results import Results

# By step: 2 is the best on validation and equal to 3. The test images prefer the last.
VALIDATION = {1: 0.3, 2: 0.5, 3: 0.5, 4: 0.2, 5: 0.4, 6: 0.1}
SETTINGS = {"evaluate_every": 1, "keep_checkpoints": 2, "steps": 6, "best": True, "stop_after": 3}


@pytest.fixture(scope="module")
def scripted():
    """Sets the balanced accuracies of every evaluation."""
    evaluate = Evaluation._evaluate

    def scripted(self):
        evaluation = evaluate(self)
        step = evaluation["step"]
        evaluation["validation"]["balanced_accuracy"] = VALIDATION[step]
        evaluation["test"]["balanced_accuracy"] = step / 10
        return evaluation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "_evaluate", scripted)
        yield


@pytest.fixture(scope="module")
def finished(scripted, tmp_path_factory):
    """A run that stops after step 5, three evaluations after the best one."""
    model_dir = tmp_path_factory.mktemp("best") / "run"
    assert run_train(*arguments(model_dir=model_dir, **SETTINGS)) == 0
    return model_dir


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def results_of(model_dir):
    return json.loads((model_dir / "results.json").read_text())


def exported_step(model_dir):
    return json.loads((model_dir / "export" / exported.RECORD).read_text())["step"]


def test_the_run_stops_and_exports_the_best_step(finished):
    results = results_of(finished)
    assert [entry["step"] for entry in results["evaluations"]] == [1, 2, 3, 4, 5]
    assert checkpoints_of(finished) == [2, 4, 5]
    assert exported_step(finished) == 2
    assert (results["exported"]["step"], results["exported"]["best"]) == (2, True)
    assert results["exported"]["validation"]["balanced_accuracy"] == 0.5
    assert results["exported"]["test"]["balanced_accuracy"] == 0.2


def test_the_same_command_says_so_again_and_trains_no_further(copied, capsys):
    before = (copied / "results.json").read_bytes()
    assert run_train(*arguments(model_dir=copied, **SETTINGS)) == 0
    output = capsys.readouterr().out
    assert "is finished, 5 steps. There was no progress in 3 evaluations." in output
    assert "exported model, step 2 (the best on validation), test: accuracy" in output
    assert "step 5, test: accuracy" in output
    assert (copied / "results.json").read_bytes() == before


def test_an_interrupted_run_stops_at_the_same_step(finished, tmp_path, monkeypatch):
    command = arguments(model_dir=tmp_path / "run", **SETTINGS)
    interrupted_at(4, monkeypatch)
    assert run_train(*command) == 130
    assert checkpoints_of(tmp_path / "run") == [2, 3, 4]
    monkeypatch.undo()
    assert run_train(*command) == 0
    assert checkpoints_of(tmp_path / "run") == [2, 4, 5]
    for name in ("results.json", f"export/{exported.RECORD}"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_a_stopped_run_continues_with_more_patience_and_without_best(copied):
    more = {**SETTINGS, "stop_after": 0, "best": False}
    assert run_train(*arguments(model_dir=copied, **more)) == 0
    assert exported_step(copied) == 6
    assert results_of(copied)["exported"]["step"] == 6
    assert checkpoints_of(copied) == [5, 6]

    # The best checkpoint is gone now, and nothing pretends to be it.
    assert run_train(*arguments(model_dir=copied, **SETTINGS)) == 2


def test_the_export_command_takes_the_best_step_or_another(copied, capsys):
    assert terminal.call(COMMAND, [str(copied), "--nobest"]) == 0
    assert exported_step(copied) == 5
    assert terminal.call(COMMAND, [str(copied)]) == 0  # as its flags.cfg says
    assert exported_step(copied) == 2
    (copied / "checkpoints" / "step_00000002.npz").unlink()
    capsys.readouterr()
    assert terminal.call(COMMAND, [str(copied), "--best"]) == 2
    message = capsys.readouterr().err
    assert "step 2 is the best" in message and "steps 5, 4." in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"best": True, "validation_size": 0}, "--best needs validation images"),
        ({"stop_after": 2, "validation_size": 0}, "--stop_after=2 needs validation images"),
        (
            {"stop_after": 2, "pseudo_labeler": "crest"},
            "--stop_after does not go with --pseudo_labeler=crest",
        ),
        ({"stop_after": -1}, "[0, inf)"),
    ],
)
def test_what_needs_validation_images_is_refused_without(tmp_path, capsys, settings, said):
    assert run_train(*arguments(model_dir=tmp_path / "run", **settings)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_earliest_of_the_best_steps_counts(tmp_path):
    results = Results(tmp_path / "results.json", ["a"], [1], None)
    assert (results.best_step(), results.without_progress()) == (None, 0)
    for step, score in VALIDATION.items():
        part = {"balanced_accuracy": score}
        results.add({"step": step, "validation": part, "test": {}, "pseudo_labels": {}}, False)
    assert (results.best_step(), results.without_progress()) == (2, 4)
    assert results.best_step(until=1) == 1
    assert not (tmp_path / "results.json").exists()


def test_the_best_until_every_checkpoint_is_kept(tmp_path):
    """If the newest checkpoint is damaged, the best one until the one before is there."""
    learner, checkpoints = small_learner(0), Checkpoints(tmp_path, keep=2)
    best = {1: 1, 2: 2, 3: 2, 4: 2, 5: 5, 6: 5, 7: 5}
    kept = []
    for step in best:
        learner.step.assign(step)
        checkpoints.save(learner, best_until=best.get)
        kept.append(checkpoints.steps())
    assert kept == [[1], [2, 1], [3, 2], [4, 3, 2], [5, 4, 2], [6, 5], [7, 6, 5]]
