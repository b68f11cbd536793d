"""benchmarks/methods.py: its tables, its picture and its page, of runs that are finished."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import methods

NAMES = ("plain", "blended")


@pytest.fixture
def compared(tmp_path, monkeypatch, finished_run):
    """The folder of two methods with two seeds each; their runs are copies of a finished one."""
    commands = []

    def train(model_dir, settings):
        shutil.copytree(finished_run.model_dir, model_dir)
        commands.append(settings)

    monkeypatch.setattr(methods, "train", train)
    of_methods = [f"--method={name}: --pseudo_labeler=linear" for name in NAMES]
    argv = ["--dataset=digits", f"--output={tmp_path}", "--seeds=2", *of_methods]
    assert methods.main(argv) == 0
    return tmp_path, commands


def test_each_method_is_trained_with_each_seed(compared):
    _, commands = compared
    assert [command[-1] for command in commands] == ["--seed=0"] * 2 + ["--seed=1"] * 2
    for command in commands:
        assert {"--dataset=digits", "--pseudo_labeler=linear"} <= set(command)


def test_the_tables_have_the_scores_of_the_runs(compared, finished_run):
    output, _ = compared
    results = json.loads((finished_run.model_dir / "results.json").read_text())
    last = 100 * results["evaluations"][-1]["test"]["accuracy"]
    with (output / "methods.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [
        (name, seed) for name in NAMES for seed in "01"
    ]
    assert {row["last"] for row in rows} == {f"{last:.2f}"}
    assert f"| blended | 2 | {last:.1f} ± 0.0 |" in (output / "methods.md").read_text()
    assert (output / "methods.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_shows_all_runs_side_by_side(compared):
    output, _ = compared
    page = (output / "methods.html").read_text()
    assert "4 runs side by side" in page
    assert all(f"{name}_{seed}" in page for name in NAMES for seed in (0, 1))
