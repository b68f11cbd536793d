"""The predict command with sets of classes and for another class distribution."""

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import daso_tf
from daso_tf.commands import adapted, predict, terminal
from daso_tf.commands.served_model import ServedModel
from daso_tf.run import held_out
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.run.held_out import HeldOut
from daso_tf.run.of_folder import settings_of
from daso_tf.run.preparation import load_data
from daso_tf.step.calibration import Calibrator, fit_calibrator

NAMES = ("ant", "=bee()", "cät")
RESOLUTION = 8
SHARES = np.array([0.5, 0.3, 0.2])
CALIBRATOR = Calibrator(1.5, np.array([0.2, 0.0, -0.1]))
SCORES = [np.linspace(0.1, 0.9, 19), np.linspace(0.2, 0.8, 19), np.array([0.3, 0.6])]
KNOWN = HeldOut(NAMES, [5, 4, 3], SCORES, CALIBRATOR, SHARES)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of an export whose answers differ from picture to picture."""
    folder = tmp_path_factory.mktemp("model") / "export"
    keras.utils.set_random_seed(0)
    encoder = daso_tf.encoders.wide_resnet(10, 1, (RESOLUTION, RESOLUTION, 3))
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    learner = daso_tf.FixMatch(encoder, len(NAMES), class_names=NAMES, **statistics)
    rng = np.random.default_rng(0)
    for weight in learner.ema_network_weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * np.where(weight == 0, 0.1, weight))
    learner.export(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for index in range(20):
        low, high = sorted(rng.integers(0, 256, 2))
        pixels = rng.integers(low, high + 1, (RESOLUTION, RESOLUTION, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    (folder / "z.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def says(model):
    """Writes what the export says about its answers."""

    def write(known):
        path = model / held_out.FILE
        path.parent.mkdir(exist_ok=True)
        path.write_text(known if isinstance(known, str) else known.as_json())

    yield write
    (model / held_out.FILE).unlink(missing_ok=True)


def run_predict(*argv):
    return terminal.call(predict.COMMAND, list(map(str, argv)))


def answers(model, pictures, tmp_path, *flags):
    output = tmp_path / "out.jsonl"
    argv = (f"--model={model}", "--format=jsonl", "--top=3", f"--output={output}", *flags)
    assert run_predict(*argv, pictures) == terminal.FAILED  # one file is no picture
    return [json.loads(line) for line in output.read_text().splitlines()]


def probabilities_of(lines):
    by_name = [{c["class_name"]: c["probability"] for c in line["classes"]} for line in lines]
    return np.array([[of[name] for name in NAMES] for of in by_name])


def plain_posterior(probabilities, shares):
    """Calibrated, then divided by the old and multiplied by the new shares, image by image."""
    rows = []
    for row in probabilities:
        weights = row ** (1 / CALIBRATOR.temperature) * np.exp(CALIBRATOR.bias) * shares / SHARES
        rows.append(weights / weights.sum())
    return np.array(rows)


def test_sets_contain_the_classes_that_reach_their_threshold(
    model, pictures, says, tmp_path, capfd
):
    says(KNOWN)
    lines = answers(model, pictures, tmp_path, "--coverage=0.9")
    shown = probabilities_of(lines)
    least = [SCORES[0][1], SCORES[1][1], SCORES[2][0]]  # floor(0.1 * 20) = 2; 1 / 3 is left out
    expected = [[n for n, p, t in zip(NAMES, row, least, strict=True) if p >= t] for row in shown]
    assert [line["class_set"] for line in lines] == expected
    assert len({tuple(of) for of in expected}) > 1
    said = capfd.readouterr().err
    assert "contains the true class with a probability of 90 % for every other class" in said
    assert "fewer than 9 validation pictures: cät (2); 2 promise 66.6 %" in said

    output = tmp_path / "out.csv"
    run_predict(f"--model={model}", "--coverage=0.9", f"--output={output}", pictures)
    with open(output, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class_id", "class_name", "probability", "class_set"]
    found = [row["class_set"].removeprefix("'").split("|") for row in rows]
    assert found == [of or [""] for of in expected]


def test_the_answers_are_for_the_shares_of_a_file(model, pictures, says, tmp_path, capfd):
    says(KNOWN)
    plain = probabilities_of(answers(model, pictures, tmp_path))
    (tmp_path / "shares.csv").write_text("class,share\ncät,6\nant,1\n'=bee(),3\n")
    prior = f"--prior={tmp_path / 'shares.csv'}"
    lines = answers(model, pictures, tmp_path, prior, "--coverage=0.9")
    expected = plain_posterior(plain, np.array([0.1, 0.3, 0.6]))
    np.testing.assert_allclose(probabilities_of(lines), expected, atol=1e-5)
    assert "the model answers for: ant 50.0 %, =bee() 30.0 %, cät 20.0 %" in capfd.readouterr().err
    # The sets hold for any class distribution, so they stay.
    sets = [line["class_set"] for line in lines]
    again = answers(model, pictures, tmp_path, "--coverage=0.9")
    assert sets == [line["class_set"] for line in again]


def test_the_shares_of_the_pictures_are_estimated(model, pictures, says, tmp_path, capfd):
    says(KNOWN)
    plain = probabilities_of(answers(model, pictures, tmp_path))
    shares = SHARES
    for _ in range(3000):
        shares = plain_posterior(plain, shares).mean(axis=0)
    capfd.readouterr()
    lines = answers(model, pictures, tmp_path, "--prior=estimate")
    found = probabilities_of(lines)
    np.testing.assert_allclose(found, plain_posterior(plain, shares), atol=2e-3)
    np.testing.assert_allclose(found.mean(axis=0), shares, atol=2e-3)
    said = capfd.readouterr().err
    assert "estimated: " in said and said.count("z.png") == 1  # a file is reported once


def test_a_class_without_a_share_is_never_answered(model, pictures, says, tmp_path):
    says(KNOWN)
    (tmp_path / "shares.json").write_text('{"ant": 0, "=bee()": 0, "cät": 2}')
    lines = answers(model, pictures, tmp_path, f"--prior={tmp_path / 'shares.json'}")
    np.testing.assert_allclose(probabilities_of(lines), np.tile([0, 0, 1], (20, 1)))


def test_impossible_classes_of_the_model_fall_back_to_the_shares():
    sure = ServedModel(lambda images: {"probabilities": tf.constant([[1.0, 0.0]])}, 2, None, None)
    known = HeldOut(("a", "b"), [1, 1], None, None, np.array([0.5, 0.5]))
    moved = adapted.for_distribution(sure, known, np.array([0.0, 1.0]))
    assert moved.serve(images=None)["probabilities"].numpy().tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("known", "flag", "message"),
    [
        (None, "--coverage=0.9", "--coverage=0.9 needs the folder of an export"),
        (None, "--prior=estimate", "--prior=estimate needs the folder of an export"),
        (KNOWN, "--coverage=1", "must be a number in (0, 1)"),
        (KNOWN, "--coverage=0", "must be a number in (0, 1)"),
        (KNOWN, "--prior=other.json", "they differ in: =bee(), bee"),
        (KNOWN, "--prior=none.json", "No such file"),
        (KNOWN._replace(scores=None), "--coverage=0.9", "exported without validation pictures"),
        (KNOWN._replace(calibrator=None), "--prior=estimate", "without validation pictures"),
        (KNOWN._replace(class_distribution=None), "--prior=right.json", "does not know it"),
        ("{", "--coverage=0.9", "is damaged"),
        ("[]", "--coverage=0.9", "is damaged"),
        (KNOWN._replace(labeled_counts=[1]), "--coverage=0.9", "labeled_counts is not for 3"),
        (KNOWN.as_json().replace("0.5,", "-1,"), "--prior=estimate", "is damaged"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_work(
    known, flag, message, model, pictures, says, tmp_path, capfd, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text('{"ant": 1, "bee": 1, "cät": 1}')
    (tmp_path / "right.json").write_text('{"ant": 1, "=bee()": 1, "cät": 1}')
    if known is not None:
        says(known)
    monkeypatch.setattr(predict, "open_model", lambda path: pytest.fail("it started"))
    assert run_predict(f"--model={model}", flag, pictures) == terminal.UNUSABLE
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_learner_has_no_held_out_scores(tmp_path, capfd):
    (tmp_path / "model.keras").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    argv = (f"--model={tmp_path / 'model.keras'}", "--coverage=0.9", tmp_path / "a.png")
    assert run_predict(*argv) == terminal.UNUSABLE
    assert "needs the folder of an export" in capfd.readouterr().err


def test_the_export_of_a_run_says_what_is_known(finished_run):
    found = held_out.read(str(finished_run.model_dir / "export"))
    settings = settings_of(finished_run.model_dir)
    data = load_data(settings, Checkpoints(finished_run.model_dir / "checkpoints")).data
    serve = tf.saved_model.load(str(finished_run.model_dir / "export"))
    images = tf.constant(data.validation.images)
    answer = serve.signatures["serving_default"](images=images)["probabilities"].numpy()
    assert found.class_names == tuple(data.class_names)
    assert found.labeled_counts == data.labeled_counts.tolist()
    for k, scores in enumerate(found.scores):
        expected = np.sort(answer[data.validation.labels == k, k])
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
    calibrator = fit_calibrator(np.log(answer), data.validation.labels)
    np.testing.assert_allclose(
        found.class_distribution, calibrator(np.log(answer)).mean(axis=0), rtol=1e-2
    )
    assert found.class_distribution.sum() == pytest.approx(1)
