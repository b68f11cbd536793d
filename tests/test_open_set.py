"""Images of no class: their scores, what a step does with them, and what a run says of them."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, completed, run_train
from dense_learner import D, K, dense_learner, step_inputs
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

import daso_tf
from daso_tf import open_set
from daso_tf.commands import export as export_command
from daso_tf.commands import predict, terminal
from daso_tf.data import DataError, load
from daso_tf.learners import FixMatchViews, mixing
from daso_tf.learners.mean_teacher import MeanTeacherViews
from daso_tf.learners.mixmatch import MixMatchViews
from daso_tf.learners.pseudo_label import PseudoLabelViews
from daso_tf.learners.remixmatch import ReMixMatchViews
from daso_tf.learners.student import StudentViews
from daso_tf.learners.usadtm import USADTMViews
from daso_tf.pseudo_labels import (
    AlignedPseudoLabeler,
    CDMADPseudoLabeler,
    DASOPseudoLabeler,
    DistributionAlignment,
    LinearPseudoLabeler,
)
from daso_tf.run.open_set import Detector
from daso_tf.settings import combinations, limits
from daso_tf.settings.methods import OPEN_SETS
from daso_tf.step.class_shares import Predictions, estimate_class_shares

# Scores -------------------------------------------------------------------------------------------


def distances(logits, features, labels, labeled, unlabeled):
    """The relative distance without shrinking, by inverse covariances."""
    means = np.stack([labeled[labels == k].mean(axis=0) for k in range(K)])

    def squared(mean, centered):
        precision = np.linalg.inv(centered.T @ centered / len(centered))
        return np.einsum("nd,de,ne->n", features - mean, precision, features - mean)

    to_classes = [squared(mean, labeled - means[labels]) for mean in means]
    middle = unlabeled.mean(axis=0)
    return np.min(to_classes, axis=0) - squared(middle, unlabeled - middle)


def cosines(logits, features, labels, labeled, unlabeled):
    means = np.stack([labeled[labels == k].mean(axis=0) for k in range(K)])
    lengths = np.outer(np.linalg.norm(features, axis=1), np.linalg.norm(means, axis=1))
    return 1 - (features @ means.T / lengths).max(axis=1)


def one_vs_all(logits, features, labels, labeled, unlabeled):
    """Heads by Newton's method on standardized features."""
    mean, spread = labeled.mean(axis=0), labeled.std(axis=0)
    inputs = np.column_stack([(labeled - mean) / spread, np.ones(len(labels))])
    found, penalty = [], np.append(np.full(D, 100.0), 0)
    for k in range(K):
        share = np.mean(labels == k)
        weights, head = np.where(labels == k, 0.5 / share, 0.5 / (1 - share)), np.zeros(D + 1)
        for _ in range(20):
            p = 1 / (1 + np.exp(-inputs @ head))
            gradient = inputs.T @ (weights * (p - (labels == k))) + penalty * head
            hessian = (inputs.T * (weights * p * (1 - p))) @ inputs + np.diag(penalty)
            head -= np.linalg.solve(hessian, gradient)
        found.append(np.column_stack([(features - mean) / spread, np.ones(len(features))]) @ head)
    chosen = np.array(found)[logits.argmax(axis=1), np.arange(len(features))]
    return 1 / (1 + np.exp(chosen))


STATEMENTS = {
    "energy": lambda logits, *_: -logsumexp(logits, axis=1),
    "largest_probability": lambda logits, *_: 1 - softmax(logits, axis=1).max(axis=1),
    "prototypes": cosines,
    "one_vs_all": one_vs_all,
    "relative_distance": distances,
}


def built(name, **more):
    score = OPEN_SETS[name].make(**more)
    score.build([(None, K), (None, D)])
    return score


@pytest.mark.parametrize("name", OPEN_SETS)
def test_scores_are_those_of_their_equations(name):
    rng = np.random.default_rng(0)
    labels = np.arange(6000) % K  # so many that shrinking hardly changes a covariance
    labeled = rng.normal(size=(6000, D)) * np.linspace(0.5, 2, D) + labels[:, None]
    unlabeled = rng.normal(size=(9000, D)) * 3
    logits, features = rng.normal(size=(8, K)) * 5, rng.normal(size=(8, D)) * 4
    score = built(name)
    score.learn(labeled, labels, unlabeled)
    found = score(tf.constant(logits, tf.float32), tf.constant(features, tf.float32))
    expected = STATEMENTS[name](logits, features, labels, labeled, unlabeled)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-4)


def test_the_limit_rejects_the_asked_share_of_held_out_images():
    score, held_out = built("energy"), np.random.default_rng(0).normal(size=1000)
    assert not score.has_limit and not score.is_unknown(held_out).numpy().any()
    for rejected in (0.05, 0.2):
        score = built("energy", rejected=rejected)
        score.set_limit(held_out)
        assert score.has_limit
        assert score.is_unknown(held_out.astype(np.float32)).numpy().mean() == rejected


@pytest.mark.parametrize("count", [300, 600, 3000])
def test_unlabeled_images_of_the_classes_are_rejected_as_often_as_held_out_ones(count):
    """Also with few of them: `relative_distance` learns from the images that it scores."""
    rng, length = np.random.default_rng(0), 256
    spread = 1 / np.arange(1, length + 1)  # few directions matter, as in a network's features
    means = 2 * spread * rng.normal(size=(K, length))

    def images(number):
        labels = rng.integers(K, size=number)
        features = means[labels] + spread * rng.normal(size=(number, length))
        return features.astype(np.float32), labels

    def scores(features):
        return score(tf.zeros((len(features), K)), features).numpy()

    (labeled, labels), (held_out, _), (unlabeled, _) = images(150), images(2000), images(count)
    score = OPEN_SETS["relative_distance"].make()
    score.build([(None, K), (None, length)])
    score.learn(labeled, labels, unlabeled)
    score.set_limit(scores(held_out))
    assert score.is_unknown(scores(unlabeled)).numpy().mean() < 0.15


@pytest.mark.parametrize("name", OPEN_SETS)
def test_constant_features_have_finite_scores(name):
    score = built(name)
    same = np.ones((6, D))
    score.learn(same, np.arange(6) % K, same)
    features = np.array([np.ones(D), 1e3 * np.arange(D)], np.float32)
    assert np.isfinite(score(np.zeros((2, K), np.float32), features)).all()


# A step -------------------------------------------------------------------------------------------

BELONGS = np.array([1, 1, 0] * 4, np.float32)
LABELERS = {
    "linear": LinearPseudoLabeler,
    "daso": lambda: DASOPseudoLabeler(4, pretrain_steps=1, distribution_period=2),
    "aligned": lambda: AlignedPseudoLabeler([3, 2, 1], window=3),
}
CASES = {
    f"{learner.__name__}+{name}": (learner, lambda make=make: {"pseudo_labeler": make()})
    for learner in (daso_tf.FixMatch, daso_tf.PseudoLabel, daso_tf.Student)
    for name, make in LABELERS.items()
} | {
    "MeanTeacher": (daso_tf.MeanTeacher, lambda: {"pseudo_labeler": LABELERS["daso"]()}),
    "MixMatch": (daso_tf.MixMatch, lambda: {"pseudo_labeler": LABELERS["aligned"]()}),
    "ReMixMatch": (daso_tf.ReMixMatch, lambda: {"pseudo_labeler": LABELERS["daso"]()}),
    "ReMixMatch+alignment": (
        daso_tf.ReMixMatch,
        lambda: {"distribution_alignment": DistributionAlignment([3, 2, 1])},
    ),
    "ReMixMatch+cdmad": (
        daso_tf.ReMixMatch,
        lambda: {
            "pseudo_labeler": CDMADPseudoLabeler(0, epoch_steps=2, aligned_counts=[3, 2, 1]),
            "sharpening_temperature": 1.0,
        },
    ),
    "USADTM": (daso_tf.USADTM, lambda: {"pretrain_steps": 0, "confidence_threshold": 0.0}),
}


def views_of(learner, views, step):
    """Turns views for FixMatch into those of a learner."""
    both = views.weak + views.strong
    if learner is daso_tf.FixMatch:
        return views
    if learner in (daso_tf.PseudoLabel, daso_tf.Student):
        kind = PseudoLabelViews if learner is daso_tf.PseudoLabel else StudentViews
        return kind(views.labeled, views.weak)
    if learner is daso_tf.MeanTeacher:
        return MeanTeacherViews(*views)
    if learner is daso_tf.USADTM:
        return USADTMViews(*views, both)
    of_unlabeled = 2 if learner is daso_tf.MixMatch else 3
    mixup = mixing.draw_mixup(tf.constant([step, 1]), 6 + of_unlabeled * 12, beta=0.5)
    if learner is daso_tf.MixMatch:
        return MixMatchViews(*views, mixup)
    return ReMixMatchViews(*views, both, tf.range(12) % 4, mixup)


def views_with(learner, step, others):
    """The views of a step; those of images of no class are replaced if `others` is true."""
    views, labels, _ = step_inputs(step)
    if others:
        noise = np.random.default_rng(99).normal(size=views.weak.shape).astype(np.float32)
        keep = BELONGS[:, None, None, None]
        weak, strong = (keep * view + (1 - keep) * noise for view in views[1:])
        views = FixMatchViews(views.labeled, weak, strong)
    return views_of(learner, views, step), labels


@pytest.mark.parametrize("case", CASES)
def test_images_of_no_class_change_nothing(case):
    """Neither the network nor what the pseudo-labeler remembers depends on what they show."""
    learner, parts = CASES[case]
    more = {} if "threshold" in learner.refuses else {"threshold": 0.4}
    states = []
    for others in (False, True):
        model = dense_learner(learner, open_set=open_set.Energy(), **parts(), **more)
        for step in range(4):
            views, labels = views_with(learner, step, others)
            outcome = model.train_on_views(views, labels, belongs=tf.constant(BELONGS))
            final = outcome.pseudo_labels.final.numpy()
            assert ((final == -1) == (BELONGS == 0)).all()
            assert (outcome.weights.numpy()[BELONGS == 0] == 0).all()
            assert outcome.weights.numpy().any()
        states.append([np.array(variable) for variable in model.weights])
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_belonging_images_are_taught_as_without_an_open_set():
    for labeler in LABELERS.values():
        states = []
        for more in ({}, {"open_set": open_set.Energy()}):
            model = dense_learner(pseudo_labeler=labeler(), threshold=0.4, **more)
            belongs = {"belongs": tf.ones(12)} if more else {}
            for step in range(3):
                model.train_on_views(*step_inputs(step)[:2], **belongs)
            states.append([np.array(variable) for variable in model.network_weights])
        for one, other in zip(*states, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_step_judges_plain_images_by_the_averaged_network():
    model = dense_learner(open_set="largest_probability", threshold=0.0)
    rng = np.random.default_rng(0)
    labeled, unlabeled = (rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for n in (6, 12))
    scores = model.unknown_scores(unlabeled).numpy()
    np.testing.assert_allclose(scores, 1 - np.max(model(unlabeled), axis=1), atol=1e-6)
    middle = np.sort(scores)[5:7].mean()
    model.open_set.limit.assign(middle)
    logs = model.train_on_batch((labeled, unlabeled), np.arange(6) % K, return_dict=True)
    assert logs["mask_rate"] == 0.5


def test_a_saved_learner_keeps_the_limit(tmp_path):
    model = dense_learner(open_set=open_set.PrototypeDistance(rejected=0.25))
    features = np.random.default_rng(0).normal(size=(9, D))
    model.open_set.learn(features, np.arange(9) % K)
    model.open_set.set_limit(np.linspace(0, 1, 9))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.open_set.rejected == 0.25
    for ours, theirs in zip(again.open_set.weights, model.open_set.weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(again.unknown_scores(images), model.unknown_scores(images))


def test_without_an_open_set_there_is_nothing_new():
    plain = dense_learner()
    assert plain.open_set is None
    with pytest.raises(ValueError, match="no open set: give it open_set="):
        plain.unknown_scores(np.zeros((1, 8, 8, 3), np.uint8))


# What it goes with --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--learner=supervised",), "it learns from the labeled images alone"),
        (("--pseudo_labeler=darp",), "those of no class included"),
        (("--pseudo_labeler=crest",), "images of no class for labeled ones"),
        (("--threshold=freematch",), "its estimates are of all unlabeled images"),
        (("--balanced_head=abc",), "it learns from all unlabeled images"),
        (("--freeze_encoder", "--answer=auto"), "the twin does not tell"),
    ],
)
def test_what_would_include_images_of_no_class_is_refused(flags, message):
    with pytest.raises(ValueError, match=f"--open_set.*{message}|{message}"):
        combinations.check(completed("--dataset=digits", "--open_set", *flags))
    combinations.check(completed("--dataset=digits", "--open_set"))


def test_a_frozen_encoder_gets_a_learner_that_takes_an_open_set():
    settings = completed("--dataset=digits", "--freeze_encoder", "--open_set")
    assert (settings.learner, settings.pseudo_labeler) == ("fixmatch", "daso")


def test_an_evaluation_must_come_before_the_end():
    settings = completed("--dataset=digits", "--open_set", "--steps=50", "--pretrain_steps=5")
    with pytest.raises(ValueError, match="--evaluate_every=500, which is not below --steps=50"):
        limits.check_effects(settings)


def test_validation_images_are_needed(tmp_path, capsys):
    argv = arguments(model_dir=tmp_path / "run", steps=4, evaluate_every=2, validation_size=0)
    assert run_train(*argv, "--open_set") == 2
    assert "--open_set needs validation images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Data ---------------------------------------------------------------------------------------------

CLASSES = {"ant": (200, 40, 40), "bee": (40, 200, 40), "cat": (40, 40, 200)}
GRAY = (120, 120, 120)


def picture(path, color, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 25, (12, 12, 3))
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of three classes, and gray ones of none of them."""
    root = tmp_path_factory.mktemp("open_set") / "data"
    for k, (name, color) in enumerate(CLASSES.items()):
        for part, count, seed in (("train", 6, 0), ("validation", 7, 1000), ("test", 4, 2000)):
            for i in range(count):
                picture(root / part / name / f"{i}.png", color, seed + 100 * k + i)
        for i in range(8):
            picture(root / "unlabeled" / f"{k}_{i}.png", color, 3000 + 100 * k + i)
    for i in range(12):
        picture(root / "unlabeled" / f"gray_{i}.png", GRAY, 4000 + i)
        picture(root / "test" / "_unknown" / "any" / f"{i}.png", GRAY, 5000 + i)
    return root


def test_images_of_no_class_are_no_class_and_no_test_images(folder):
    data = load("image_folder", data_dir=folder, resolution=8)
    assert data.class_names == tuple(CLASSES)
    assert (len(data.test), len(data.unknown)) == (12, 12)
    assert (data.unknown.labels == -1).all()
    gray = data.unknown.take(np.arange(12)).astype(float)
    assert np.ptp(gray.mean(axis=(0, 1, 2))) < 10


def test_only_images_of_no_class_are_no_test_images(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data", symlinks=True)
    for name in CLASSES:
        shutil.rmtree(tmp_path / "data" / "test" / name)
    data = load("image_folder", data_dir=tmp_path / "data", resolution=8)
    assert data.test is None and len(data.unknown) == 12
    picture(tmp_path / "data" / "train" / "_unknown" / "0.png", GRAY, 0)
    with pytest.raises(DataError, match="the name for images of no class"):
        load("image_folder", data_dir=tmp_path / "data", resolution=8)


def test_a_list_has_them_with_a_label_of_their_own(folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    lines = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in paths]
    lines = [line.replace(",any,_unknown", ",_unknown,test") for line in lines]
    lines = [line for line in lines if ",unlabeled," not in line]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    arguments = {"labels": tmp_path / "labels.csv", "unlabeled_head": 2, "labeled_head": 2}
    data = load("image_list", **arguments, resolution=8)
    assert data.class_names == tuple(CLASSES)
    assert (len(data.test), len(data.unknown)) == (12, 12)
    lines.append(f"{folder}/unlabeled/gray_0.png,_unknown,train")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="which only test images of no class have"):
        load("image_list", **arguments, resolution=8)


# A run --------------------------------------------------------------------------------------------


def command_line(folder, model_dir, **more):
    return arguments(
        dataset="image_folder",
        data_dir=folder,
        model_dir=model_dir,
        labeled_head=0,
        labeled_imbalance=1,
        unlabeled_head=0,
        unlabeled_imbalance=1,
        validation_size=0,
        **{"steps": 9, "evaluate_every": 3, "open_set": True, **more},
    )


@pytest.fixture(scope="module")
def run(folder):
    """The folder of a run with an open set, with its report."""
    model_dir = folder.parent / "run"
    assert run_train(*command_line(folder, model_dir, report=True)) == 0
    return model_dir


@pytest.fixture(scope="module")
def plain(folder):
    """The folder of a run without an open set on the same pictures."""
    model_dir = folder.parent / "plain"
    assert run_train(*command_line(folder, model_dir, open_set=False, steps=3)) == 0
    return model_dir


def served(run, folder):
    """What the export answers about the pictures of a folder, by path."""
    serve = tf.saved_model.load(str(run / "export")).signatures["serving_default"]
    paths = sorted(folder.rglob("*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    return paths, {name: value.numpy() for name, value in serve(images=images).items()}


def last_checkpoint(run):
    with np.load(max((run / "checkpoints").glob("*.npz"))) as saved:
        return dict(saved)


def test_the_export_tells_images_of_no_class(run, folder):
    _, held_out = served(run, folder / "validation")
    limit = np.quantile(held_out["unknown_score"], 0.95)
    _, answers = served(run, folder)
    scores = answers["unknown_score"]
    far = np.abs(scores - limit) > 1e-3 * np.abs(limit)
    np.testing.assert_array_equal(answers["unknown"][far], (scores > limit)[far])
    assert 0 < answers["unknown"].mean() < 1
    assert held_out["unknown"].sum() in (1, 2)  # 5 % of 21, or one at the limit itself


def test_results_have_the_auroc(run, folder, capsys, monkeypatch):
    _, answers = served(run, folder / "test")
    paths, _ = served(run, folder / "test")
    is_unknown = np.array(["_unknown" in path.parts for path in paths])
    found = json.loads((run / "results.json").read_text())["exported"]["unknown"]
    assert found["auroc"] == pytest.approx(roc_auc_score(is_unknown, answers["unknown_score"]))
    assert found["images"] == 12 and found["score"] == "relative_distance"
    assert found["rejected_test"] == pytest.approx(answers["unknown"][~is_unknown].mean())
    assert found["rejected_unknown"] == pytest.approx(answers["unknown"][is_unknown].mean())
    monkeypatch.setattr(Detector, "fit", lambda _: pytest.fail("the last evaluation has done so"))
    assert terminal.call(export_command.COMMAND, [str(run)]) == 0
    assert f"12 images of no class: AUROC {found['auroc']:.3f}" in capsys.readouterr().out


def test_the_report_has_the_score_of_the_run(run, folder):
    paths, answers = served(run, folder / "unlabeled")
    expected = dict(zip([path.name for path in paths], answers["unknown_score"], strict=True))
    with open(run / "unlabeled.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    for row in rows:
        name = Path(row["path"]).name
        assert float(row["unknown_score"]) == pytest.approx(expected[name], rel=1e-2, abs=1e-2)
        if row["unknown"] == "yes":
            assert float(row["taught_weight"]) == 0
    assert {row["unknown"] for row in rows} == {"yes", "no"}


def test_the_class_shares_of_the_report_are_those_of_pictures_of_the_classes(run, folder):
    paths, held_out = served(run, folder / "validation")
    _, unlabeled = served(run, folder / "unlabeled")
    names = sorted({path.parent.name for path in paths})
    labels = np.array([names.index(path.parent.name) for path in paths])
    known, belongs = ~held_out["unknown"], ~unlabeled["unknown"]
    logits = [np.log(answers["probabilities"]) for answers in (held_out, unlabeled)]

    def estimated(of_known, of_unlabeled):
        asked = logits[0][of_known], labels[of_known], logits[1][of_unlabeled]
        return estimate_class_shares(Predictions(*asked), resamples=1).em.value

    found = json.loads((run / "results.json").read_text())["class_shares"]
    expected = estimated(known, belongs)
    np.testing.assert_allclose(found["em"]["value"], expected, atol=5e-3)
    of_all = estimated(np.ones(len(known), bool), np.ones(len(belongs), bool))
    assert np.abs(of_all - expected).max() > 0.02
    assert "pictures that look like no class are\nleft out" in (run / "report.html").read_text()


def test_predict_writes_it(run, folder, capfd):
    paths, answers = served(run, folder / "test")
    argv = [f"--model={run / 'export'}", "--unknown", str(folder / "test")]
    assert terminal.call(predict.COMMAND, argv) == 0
    rows = {row["path"]: row for row in csv.DictReader(capfd.readouterr().out.splitlines())}
    assert terminal.call(predict.COMMAND, ["--format=jsonl", *argv]) == 0
    lines = map(json.loads, capfd.readouterr().out.splitlines())
    by_path = {line["path"]: line for line in lines}
    for path, score, unknown in zip(
        map(str, paths), answers["unknown_score"], answers["unknown"], strict=True
    ):
        assert float(rows[path]["unknown_score"]) == pytest.approx(float(score), rel=1e-2, abs=1e-2)
        assert rows[path]["unknown"] == ("yes" if unknown else "no")
        assert by_path[path]["unknown"] is bool(unknown)
        assert by_path[path]["unknown_score"] == pytest.approx(float(score), rel=1e-2, abs=1e-2)


def test_a_model_that_does_not_tell_is_refused(plain, folder, capsys):
    model = plain / "export"
    assert terminal.call(predict.COMMAND, [f"--model={model}", "--unknown", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "does not tell images of no class" in captured.err and "--open_set" in captured.err


def test_a_resumed_run_is_the_same(run, folder, capsys, monkeypatch):
    """It stops between two evaluations, so the limit must come from the checkpoint."""
    fit, fitted = Detector.fit, []
    monkeypatch.setattr(Detector, "fit", lambda self: (fitted.append(self), fit(self)))
    resumed = folder.parent / "resumed"
    assert run_train(*command_line(folder, resumed, steps=5)) == 0
    assert len(fitted) == 2  # after step 3, and for the export of step 5
    assert run_train(*command_line(folder, resumed)) == 0
    assert len(fitted) == 4  # after steps 6 and 9, which is exported as it is
    ours, theirs = last_checkpoint(resumed), last_checkpoint(run)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert run_train(*command_line(folder, resumed, steps=12, evaluate_every=2)) == 2
    assert "--evaluate_every: 3 there, 2 now" in capsys.readouterr().err


def test_auroc_is_known_without_an_open_set_too(run, plain, folder):
    found = json.loads((plain / "results.json").read_text())["exported"]["unknown"]
    assert 0 <= found["auroc"] <= 1 and found["score"] == "relative_distance"
    _, answers = served(plain, folder / "test")
    assert answers.keys() == {"probabilities", "class_ids", "class_names"}
    more = last_checkpoint(run).keys() - last_checkpoint(plain).keys()
    assert len(more) == 5  # of the open set: the limit, two means, two roots of precisions
