"""The scripts in examples/ are short and run, here for one step."""

import runpy
import sys
from pathlib import Path

import pytest
import tensorflow as tf

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
LEARNERS = {"supervised", "pseudo_label", "mean_teacher", "mixmatch", "remixmatch", "fixmatch"}


def test_every_learner_has_an_example():
    assert {path.stem for path in EXAMPLES} == LEARNERS | {
        "usadtm", "daso", "custom_learner", "custom_pseudo_labeler", "custom_step_losses"
    }  # fmt: skip


@pytest.fixture
def eager():
    """The step is not compiled: that takes longer than to run it once."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though")
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, monkeypatch, capsys):
    assert len(path.read_text().splitlines()) < (80 if "custom" in path.stem else 60)
    monkeypatch.setattr(sys, "argv", [str(path), "1"])
    runpy.run_path(str(path), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("balanced accuracy ")
    assert 0 <= float(last.split()[-1]) <= 1
