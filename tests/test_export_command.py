"""What is exported is what the flags ask for: the command `export`, and finished runs."""

import json
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
from command import arguments, completed, run_train

from daso_tf.commands import terminal
from daso_tf.commands.export import COMMAND
from daso_tf.run import exported
from daso_tf.run.finishing import about_logit_adjustment
from daso_tf.run.held_out import HeldOut
from daso_tf.run.lock import locked
from daso_tf.settings.settings import Settings

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """A copy of the finished run, with checkpoints of the steps 2, 4 and 5."""
    shutil.copytree(finished_run.model_dir, tmp_path / "run")
    return tmp_path / "run"


def export(*argv):
    return terminal.call(COMMAND, [str(argument) for argument in argv])


def probabilities(folder):
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return serve(images=tf.constant(IMAGES))["probabilities"].numpy()


def record(folder):
    return json.loads((folder / exported.RECORD).read_text())


def results_of(model_dir):
    return json.loads((model_dir / "results.json").read_text())


def adjusted(answers, strength):
    counts = np.array([6, 5, 4, 4, 3, 3, 2, 2, 2, 2])
    answers = answers / (counts / counts.sum()) ** strength
    return answers / answers.sum(axis=1, keepdims=True)


def test_logit_adjustment_of_a_finished_run_changes_export_and_table(copied_run, capsys):
    plain = probabilities(copied_run / "export")
    before = results_of(copied_run)
    command = arguments(model_dir=copied_run, steps=5, evaluate_every=2)
    assert run_train(*command, "--test_logit_adjustment=1") == 0
    np.testing.assert_allclose(
        probabilities(copied_run / "export"), adjusted(plain, 1), rtol=1e-4, atol=1e-7
    )
    after = results_of(copied_run)
    assert after["evaluations"] == before["evaluations"]
    scores = after["evaluations"][-1]["test"]["logit_adjusted"]
    assert after["exported"]["test"] == scores
    output = capsys.readouterr().out
    line = "exported model, step 5, logit adjustment 1, test: accuracy"
    assert f"{line} {100 * scores['accuracy']:.1f} %" in output
    rows = [line.split() for line in output.splitlines()]
    recalls = [row[3] for row in rows if len(row) == 6 and row[0].isdigit()]
    assert recalls == [f"{100 * recall:.1f}" for recall in scores["recall"]]

    assert run_train(*command) == 0  # and back
    np.testing.assert_allclose(probabilities(copied_run / "export"), plain, rtol=1e-6)
    assert results_of(copied_run) == before


def test_another_strength_is_measured(copied_run):
    plain = probabilities(copied_run / "export")
    assert export(copied_run, "--test_logit_adjustment=0.5") == 0
    np.testing.assert_allclose(
        probabilities(copied_run / "export"), adjusted(plain, 0.5), rtol=1e-4, atol=1e-7
    )
    found = results_of(copied_run)["exported"]
    assert (found["step"], found["test_logit_adjustment"]) == (5, 0.5)
    assert found["test"]["balanced_accuracy"] == pytest.approx(np.mean(found["test"]["recall"]))
    assert set(found) == {"step", "best", "test_logit_adjustment", "test", "validation"}


def test_an_unchanged_export_is_not_written_again(copied_run):
    before = (copied_run / "export").stat().st_ino
    command = arguments(model_dir=copied_run, steps=5, evaluate_every=2)
    assert run_train(*command) == 0
    assert (copied_run / "export").stat().st_ino == before


def test_the_export_of_an_older_step_is_replaced(copied_run):
    """As if the process was killed after training and before the export."""
    expected = record(copied_run / "export")
    assert expected["step"] == 5
    assert export(copied_run, "--step=2") == 0
    assert run_train(*arguments(model_dir=copied_run, steps=5, evaluate_every=2)) == 0
    assert record(copied_run / "export") == expected


def test_an_export_without_the_record_of_what_it_is_is_replaced(tmp_path, monkeypatch):
    learner = types.SimpleNamespace(
        ema_network_weights=[tf.Variable([1.0])],
        step=tf.Variable(5),
        class_names=("a", "b"),
        network=types.SimpleNamespace(resolution=8),
        open_set=None,
    )
    written = []
    known = HeldOut(("a", "b"), [1, 1], None, None, None)

    def write(_, directory, resolution, class_names, extra):
        written.append(directory)
        (directory / exported.RECORD).parent.mkdir(parents=True, exist_ok=True)
        (directory / "saved_model.pb").touch()
        (directory / exported.RECORD).write_bytes(extra[exported.RECORD])
        assert resolution == 8 and extra["MODEL.md"] == b"# A card"

    monkeypatch.setattr(exported, "write_saved_model", write)
    settings = Settings({"test_logit_adjustment": 0.0, "mixed_precision": "none"})

    def is_written():
        return exported.export(learner, settings, tmp_path, "# A card", known)

    assert is_written() and not is_written()
    for spoil in (
        lambda: (tmp_path / exported.RECORD).unlink(),
        lambda: (tmp_path / exported.RECORD).write_text("{"),
        lambda: (tmp_path / exported.RECORD).write_bytes(b"\xff"),
        lambda: (tmp_path / "saved_model.pb").unlink(),
        lambda: learner.step.assign(6),
        lambda: learner.ema_network_weights[0].assign([2.0]),
    ):
        spoil()
        assert is_written() and not is_written()
    settings = settings.replace(mixed_precision="bfloat16")
    assert is_written() and not is_written()
    known = known._replace(scores=[np.array([0.5]), np.array([])])
    assert is_written() and not is_written()


def test_a_step_is_exported_to_another_folder(copied_run, tmp_path, capsys):
    before = (copied_run / "results.json").read_bytes()
    old = probabilities(copied_run / "export")
    # It writes nothing into the folder of the run, which may be training.
    with locked(copied_run):
        assert export(copied_run, "--step=2", f"--export_dir={tmp_path / 'two'}") == 0
    assert record(tmp_path / "two")["step"] == 2
    assert not np.allclose(probabilities(tmp_path / "two"), old, rtol=1e-3)
    np.testing.assert_array_equal(probabilities(copied_run / "export"), old)
    assert (copied_run / "results.json").read_bytes() == before
    output = capsys.readouterr().out
    scores = json.loads(before)["evaluations"][0]["test"]
    assert f"Exported step 2 of {copied_run}" in output
    assert f"exported model, step 2, test: accuracy {100 * scores['accuracy']:.1f} %" in output
    with locked(copied_run):
        assert export(copied_run, "--step=2") == 2


def test_a_moved_run_exports_into_its_own_folder(copied_run, tmp_path):
    copied_run.rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "export")
    assert export(tmp_path / "moved") == 0
    assert record(tmp_path / "moved" / "export")["step"] == 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--step=3"], "no checkpoint of step 3; it has those of 5, 4, 2"),
        (["--step=0"], "--step=0"),
        (["--step=2", "--best"], "give one of them"),
        (["--step=2", "more"], "needs one argument"),
        (["--data_dir=nowhere", "--dataset=digits"], "dataset"),
    ],
)
def test_what_cannot_be_exported_is_one_line(finished_run, capsys, flags, said):
    assert export(finished_run.model_dir, *flags) == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message and message.count("\n") == 1


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert export(tmp_path) == 2
    assert "is no folder of a training run" in capsys.readouterr().err
    (tmp_path / "flags.cfg").write_text("--no_such_flag=1\n")
    assert export(tmp_path) == 2
    assert f"{tmp_path / 'flags.cfg'} cannot be used" in capsys.readouterr().err
    (tmp_path / "flags.cfg").write_text("--dataset=digits\n")
    assert export(tmp_path) == 2
    assert "has no checkpoint to export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["flags.cfg"]


def test_a_damaged_step_is_not_replaced_by_another(copied_run, capsys):
    path = copied_run / "checkpoints" / "step_00000005.npz"
    path.write_bytes(path.read_bytes()[:1000])
    assert export(copied_run) == 2
    assert f"{path} cannot be read" in capsys.readouterr().err
    assert export(copied_run, "--step=4") == 0


def test_other_formats_are_files_beside_the_saved_model(copied_run, capsys):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    pytest.importorskip("tf2onnx")
    before = (copied_run / "results.json").read_bytes()
    assert export(copied_run, "--format=litert,onnx", "--side=12") == 0
    assert (copied_run / "results.json").read_bytes() == before
    said = capsys.readouterr().out
    assert f"Exported model:  {copied_run}/export.onnx, {copied_run}/export.tflite" in said
    interpreter = litert.Interpreter(model_path=str(copied_run / "export.tflite"))
    run = interpreter.get_signature_runner("serving_default")
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    serve = tf.saved_model.load(str(copied_run / "export")).signatures["serving_default"]
    expected = serve(images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(run(images=images)["probabilities"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format=h5"], "'h5' is no format; allowed are saved_model, litert, onnx"),
        (["--side=32"], "--side=32, but a SavedModel takes images of any size"),
    ],
)
def test_formats_are_checked_first(copied_run, capsys, flags, said):
    assert export(copied_run, *flags) == 2
    assert said in capsys.readouterr().err


def test_the_last_lines_say_how_to_export_logit_adjusted_answers(finished_run):
    assert "\nlogit-adjusted: each class is divided by its share" in finished_run.output
    command = f"daso-tf export {finished_run.model_dir} --test_logit_adjustment=1\n"
    assert f"To export these answers: {command}" in finished_run.output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model_dir": "my runs/a"}, "daso-tf export 'my runs/a' --test_logit_adjustment=1"),
        (
            {"model_dir": "a", "test_logit_adjustment": 1},
            "To export the plain answers: daso-tf export a --test_logit_adjustment=0",
        ),
        ({"logit_adjustment": 1}, "This training counters the imbalance in its own way."),
        ({"balanced_head": "abc"}, "This training counters the imbalance in its own way."),
        (
            {"learner": "crt", "pseudo_labeler": "linear", "from_model_dir": "run"},
            "This training counters the imbalance in its own way.",
        ),
    ],
)
def test_only_answers_that_can_be_exported_are_offered(given, said):
    assert about_logit_adjustment(completed(*arguments(**given))).endswith(said)
