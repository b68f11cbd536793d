"""Closed forms of the labeled images as what a run exports."""

import contextlib
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from daso_tf.commands import export, terminal
from daso_tf.step.closed_forms import logistic_regression


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a feature bank, which exports the discriminant."""
    folder = tmp_path_factory.mktemp("run")
    frozen = {"freeze_encoder": True, "adapter_units": 8, "bank_weak_views": 2}
    sizes = {"steps": 2, "evaluate_every": 2, "test_images": 8, "cache_dir": folder / "cache"}
    argv = arguments(**frozen, **sizes, model_dir=folder / "run")
    assert run_train(*argv, "--answer=discriminant") == 0
    return folder / "run"


def exported(model_dir, *flags):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert terminal.call(export.COMMAND, [str(model_dir), *flags]) == 0
    return output.getvalue()


def probabilities(folder, run):
    """What an export answers to pictures of the test set."""
    files = sorted((run / "test_images").glob("*.png"))
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return serve(images=tf.constant(images))["probabilities"].numpy()


def test_the_discriminant_is_exported(run):
    results = json.loads((run / "results.json").read_text())
    own = results["comparison"]["parts"]["test"]["discriminant"]
    assert results["exported"]["answer"] == "discriminant"
    assert results["exported"]["test"] == own
    card = (run / "export" / "MODEL.md").read_text()
    assert "is linear discriminant on features of the frozen encoder" in card
    assert "they are for images with equally many of each class" in card


def test_logistic_regression_is_exported_afterwards(run, tmp_path):
    output = exported(run, "--answer=logistic", f"--export_dir={tmp_path}/logistic")
    assert "Exported: logistic regression of the labeled images (--answer=logistic)." in output
    exported(run, "--answer=run", f"--export_dir={tmp_path}/run")
    answers = [probabilities(tmp_path / name, run) for name in ("logistic", "run")]
    np.testing.assert_allclose(answers[0].sum(axis=1), 1, atol=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 0.01


def test_logit_adjustment_at_test_time_does_not_adjust_them_again(tmp_path, run):
    flags = ["--logit_adjustment=0", "--test_logit_adjustment=1", "--answer=discriminant"]
    frozen = {"freeze_encoder": True, "adapter_units": 8, "bank_weak_views": 2}
    sizes = {"steps": 2, "evaluate_every": 2, "cache_dir": run.parent / "cache"}
    assert run_train(*arguments(**frozen, **sizes, model_dir=tmp_path / "run"), *flags) == 0
    same = probabilities(run / "export", run)
    np.testing.assert_allclose(probabilities(tmp_path / "run" / "export", run), same, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_scikit_learn(classes):
    draws = np.random.default_rng(0)
    labels = draws.permutation(np.repeat(np.arange(classes), (12, 6, 4)[:classes]))
    features = draws.normal(size=(len(labels), 5)) + labels[:, None]
    counts = np.bincount(labels)
    theirs = LogisticRegression(C=1 / (0.1 * len(labels)), max_iter=200).fit(features, labels)
    weights, bias = logistic_regression(features, labels, counts, tau=0)
    expected = theirs.predict_proba(features)
    np.testing.assert_allclose(softmax(features @ weights + bias, axis=1), expected, atol=1e-6)
    weights, adjusted = logistic_regression(features, labels, counts)
    np.testing.assert_allclose(bias - adjusted, np.log(counts / counts.sum()))


@pytest.mark.parametrize("answer", ["discriminant", "logistic"])
def test_they_need_frozen_features(answer, tmp_path, capsys):
    argv = arguments(model_dir=tmp_path / "run", steps=2, evaluate_every=2)
    assert run_train(*argv, f"--answer={answer}") == 2
    assert f"--answer={answer} does not go with an encoder" in capsys.readouterr().err
