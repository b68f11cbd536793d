"""The model card that is written with an export."""

import json

import pytest
from command import arguments, completed

from daso_tf.run.model_card import model_card
from daso_tf.run.results import Results


def test_a_run_writes_the_card_of_its_last_step(finished_run):
    card = (finished_run.model_dir / "export" / "MODEL.md").read_text()
    results = json.loads((finished_run.model_dir / "results.json").read_text())
    last = results["evaluations"][-1]
    assert "5 of 5 steps" in card
    accuracies = [last["test"], last["test"]["logit_adjusted"]]
    for line, scores in zip(("test", "test, logit-adjusted"), accuracies, strict=True):
        shown = (f"{100 * scores[name]:.1f} %" for name in ("accuracy", "balanced_accuracy"))
        assert f"| {line} | {' | '.join(shown)} |" in card
    rows = zip(
        results["class_names"],
        results["labeled_counts"],
        results["unlabeled_counts"],
        last["test"]["recall"],
        strict=True,
    )
    for number, (name, labeled, unlabeled, recall) in enumerate(rows):
        assert f"| {number} | {name} | {labeled} | {unlabeled} | {100 * recall:.1f} % |" in card
    assert "- `--dataset=digits`" in card and "- `--steps=5`" in card
    assert "--learning_rate" not in card  # it has its default
    assert str(finished_run.model_dir) not in card


@pytest.fixture
def results(tmp_path):
    results = Results(tmp_path / "results.json", ["a|b", "*c*\n<b>"], [3, 1], None)
    scores = {"accuracy": 0.5, "balanced_accuracy": 0.4, "recall": [0.6, 0.2]}
    adjusted = {"accuracy": 0.7, "balanced_accuracy": 0.8, "recall": [0.7, None]}
    results.add({"step": 10, "validation": {**scores, "logit_adjusted": adjusted}})
    return results


def test_names_are_not_markup_and_what_is_unknown_is_left_out(results):
    card = model_card(completed(*arguments(steps=20)), results, step=10)
    assert "| 0 | a\\|b | 3 | - | 60.0 % |" in card
    assert "| 1 | \\*c\\* \\<b\\> | 1 | - | 20.0 % |" in card
    assert "recall, validation" in card and "recall, test" not in card
    assert "class distribution of the labeled images" in card


def test_recall_is_that_of_the_exported_answer(results):
    settings = completed(*arguments(steps=20, test_logit_adjustment=1))
    card = model_card(settings, results, step=10)
    assert "| 0 | a\\|b | 3 | - | 70.0 % |" in card and "| - | - |" in card
    assert "equally many of each class" in card


def test_a_step_without_evaluation_has_no_results(results):
    card = model_card(completed(*arguments(steps=20)), results, step=15)
    assert "The network of step 15 was not evaluated." in card
    assert "60.0 %" not in card
