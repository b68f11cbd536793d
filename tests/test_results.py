"""Scores against scikit-learn, the results file, the table and the picture."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from daso_tf.run.report import draw, table
from daso_tf.run.results import Results, evaluate, scores

K = 4


def random_predictions(seed=0, count=200):
    rng = np.random.default_rng(seed)
    return rng.integers(0, K, count), rng.dirichlet(np.ones(K), count)


def an_evaluation(step, accuracy=0.5, **parts):
    share = {"accuracy": accuracy, "balanced_accuracy": accuracy / 2, "recall": [0.25] * K}
    unknown = {"recall": [float("nan")] * K, "precision": [1.0, 0.5, 0.25, float("nan")]}
    return {
        "step": step,
        "test": {**share, "logit_adjusted": share},
        "pseudo_labels": {"linear": unknown, "semantic": unknown, "final": unknown},
        **parts,
    }


def new_results(path, unlabeled_counts=(9, 7, 5, 3)):
    return Results(path, ["ant", "bee", "cat", "dog"], [8, 4, 2, 1], unlabeled_counts)


def test_scores_are_those_of_scikit_learn():
    labels, probabilities = random_predictions()
    predictions = probabilities.argmax(axis=1)
    found = scores(labels, predictions, K)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    np.testing.assert_allclose(found["recall"], recall_score(labels, predictions, average=None))


def test_class_without_images_has_no_recall_and_does_not_count():
    found = scores(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
    assert found["balanced_accuracy"] == 0.75
    np.testing.assert_array_equal(found["recall"], [0.5, np.nan, 1.0])


def test_logit_adjustment_divides_by_the_labeled_shares():
    labels, probabilities = random_predictions(1)
    counts = np.array([50, 20, 5, 1])
    adjusted = (probabilities / (counts / counts.sum())).argmax(axis=1)
    found = evaluate(labels, probabilities, counts)
    assert found["logit_adjusted"] == scores(labels, adjusted, K)
    assert found["accuracy"] == scores(labels, probabilities.argmax(axis=1), K)["accuracy"]


def test_logit_adjustment_accepts_probabilities_of_zero():
    found = evaluate(np.array([1]), np.array([[0.0, 1.0]]), np.array([1, 1000]))
    assert found["logit_adjusted"]["accuracy"] == 1.0


def test_medians_are_of_the_last_twenty(tmp_path):
    results = new_results(tmp_path / "results.json")
    accuracies = np.random.default_rng(2).random(25)
    for step, accuracy in enumerate(accuracies):
        results.add(an_evaluation(step, accuracy))
    medians = results.medians()["test"]
    assert medians["accuracy"] == pytest.approx(np.median(accuracies[5:]))
    assert medians["logit_adjusted"]["balanced_accuracy"] == pytest.approx(
        np.median(accuracies[5:]) / 2
    )


def test_file_is_valid_json_with_null_for_unknown(tmp_path):
    path = tmp_path / "results.json"
    new_results(path, None).add(an_evaluation(10))

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["unlabeled_counts"] is None
    assert content["class_names"] == ["ant", "bee", "cat", "dog"]
    assert content["median_of_last_20"]["test"]["accuracy"] == 0.5
    (evaluation,) = content["evaluations"]
    assert evaluation["pseudo_labels"]["final"] == {
        "recall": [None] * K,
        "precision": [1.0, 0.5, 0.25, None],
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_evaluations_after_a_checkpoint_are_forgotten(tmp_path):
    path = tmp_path / "results.json"
    results = new_results(path)
    for step in (5, 10, 15):
        results.add(an_evaluation(step))
    again = new_results(path)
    again.forget_after(10)
    again.add(an_evaluation(12))
    assert [entry["step"] for entry in new_results(path).evaluations] == [5, 10, 12]


def test_file_that_is_not_a_results_file_is_named(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"results\.json"):
        new_results(path)


def test_table_has_one_line_per_class(tmp_path):
    results = new_results(tmp_path / "results.json")
    results.add(an_evaluation(10))
    lines = table(results).splitlines()
    assert lines[2].split() == ["ant", "8", "9", "25.0", "-", "100.0"]
    assert lines[5].split() == ["dog", "1", "3", "25.0", "-", "-"]
    assert len({len(line) for line in lines[:6]}) == 1


def test_table_and_picture_without_test_images_or_unlabeled_truth(tmp_path):
    results = new_results(tmp_path / "results.json", None)
    evaluation = an_evaluation(10)
    del evaluation["test"]
    results.add(evaluation)
    assert table(results).splitlines()[2].split() == ["ant", "8", "-", "-", "-", "100.0"]
    draw(results, tmp_path / "results.png")
    with Image.open(tmp_path / "results.png") as picture:
        assert picture.width > picture.height > 100
