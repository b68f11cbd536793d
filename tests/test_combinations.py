"""Which methods can be combined: the rules, the generated pages, and the train command."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from command import arguments, built, run_train

from daso_tf import balance, data
from daso_tf.commands import terminal
from daso_tf.commands.combinations import COMMAND, pages, table
from daso_tf.settings import combinations
from daso_tf.settings.combinations import BALANCES, PAPER, refusals
from daso_tf.settings.flags import TRAIN

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("combination", "reason"),
    [
        (("supervised", "daso"), "learns from the labeled images alone"),
        (("usadtm", "daso"), "nearest templates"),
        (("mixmatch", "linear", ["abc"]), "no consistency loss between weak and strong views"),
        (("supervised", "linear", ["abc"]), "no consistency loss"),
        (("fixmatch", "distribution_alignment", ["abc"]), "remembers the predictions"),
        (("fixmatch", "darp", ["abc"]), "remembers the predictions"),
        (("fixmatch", "daso", ["logit_adjustment", "abc"]), "both would counter it twice"),
        (("fixmatch", "linear", ["logit_adjustment", "test_logit_adjustment"]), "twice"),
        (("crt", "linear", ["logit_adjustment"]), "equally many images of every class already"),
        (("crt", "daso"), "learns from the labeled images alone"),
        (("supervised", "linear", ["class_balanced", "ldam"]), "twice"),
    ],
)
def test_combinations_without_sense_are_refused(combination, reason):
    (refusal,) = refusals(*combination)
    assert reason in refusal.reason


@pytest.mark.parametrize("learner", ["fixmatch", "remixmatch", "mixmatch", "mean_teacher"])
@pytest.mark.parametrize("balances", [(), ("logit_adjustment",), ("test_logit_adjustment",)])
def test_daso_is_allowed_with_the_learners_of_its_paper(learner, balances):
    assert not list(refusals(learner, "daso", balances))


@pytest.mark.parametrize("learner", PAPER)
def test_combinations_of_the_paper_are_allowed(learner):
    for name in PAPER[learner]:
        pair = ("linear", [name]) if name in BALANCES else (name,)
        assert not list(refusals(learner, *pair))


def test_table_has_every_learner_and_a_reason_for_every_refusal():
    lines = table().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(combinations.LEARNERS)
    reasons = {line.split(". ")[0] for line in lines if re.match(r"\d+\. ", line)}
    assert {
        cell.strip("no() |") for row in rows for cell in row if cell.startswith("no")
    } == reasons
    assert "**yes**" in table() and "no (1)" in table()


@pytest.mark.parametrize("name", ["combinations.md", "flags.md"])
def test_generated_page_is_up_to_date(name):
    """If this fails: `python -m daso_tf.combinations --write=docs`."""
    assert (DOCS / name).read_text(encoding="utf-8") == pages()[name]


def test_flags_page_has_every_flag_once():
    rows = re.findall(r"^\| `--(\w+)` \|", pages()["flags.md"], re.M)
    assert sorted(rows) == sorted(TRAIN)


def test_command_prints_the_table_and_writes_the_pages(tmp_path, capsys):
    assert terminal.call(COMMAND, []) == 0
    assert capsys.readouterr().out == f"{table()}\n"
    assert terminal.call(COMMAND, [f"--write={tmp_path}"]) == 0
    assert "flags.md" in capsys.readouterr().out
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert written == pages()


def test_command_names_a_folder_that_it_cannot_write_to(tmp_path, capsys):
    assert terminal.call(COMMAND, [f"--write={tmp_path / 'missing'}"]) == 2
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balanced_head": "abc", "learner": "mean_teacher"}, "--balanced_head=abc does not go"),
        ({"balanced_head": "abc", "test_logit_adjustment": 1}, "does not go with --balanced_head"),
        ({"supervised_loss": "ldam", "logit_adjustment": 1}, "--supervised_loss=ldam: each"),
        (
            {
                "learner": "remixmatch",
                "pseudo_labeler": "distribution_alignment",
                "distribution_alignment": True,
            },
            "aligned twice; --nodistribution_alignment (distribution_alignment=None)",
        ),
        ({"learner": "crt"}, "retrains the classifier of a finished run: say which"),
        ({"from_model_dir": "runs/x"}, "--from_model_dir does not go with --learner=fixmatch"),
        ({"pseudo_labeler": "darp", "jit_compile": "true"}, "which XLA cannot compile"),
    ],
)
def test_command_refuses_before_anything_is_loaded(settings, message, tmp_path, capsys):
    """The data directory does not exist, but the message is about the combination."""
    command = arguments(dataset="image_folder", data_dir=tmp_path / "none", **settings)
    assert run_train(*command, f"--model_dir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def made(**settings):
    """Returns the learner that the train command makes for four labeled images."""
    images = np.zeros((9, 8, 8, 3), np.uint8)
    return built(data.from_arrays(images[:4], [0, 0, 0, 1], images[4:]), *arguments(**settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"supervised_loss": "class_balanced", "class_balance_beta": 0.5},
            balance.ClassBalancedLoss([3, 1], 0.5),
        ),
        (
            {"supervised_loss": "ldam", "ldam_reweight_after": 7, "ldam_scale": 2},
            balance.LDAMLoss([3, 1], 0.5, 2.0, 7, 0.999),
        ),
        ({"logit_adjustment": 2}, balance.LogitAdjustedLoss([3, 1], 2.0)),
    ],
)
def test_flags_make_the_supervised_loss(settings, expected):
    loss = made(learner="supervised", pseudo_labeler="linear", **settings).supervised_loss
    assert type(loss) is type(expected)
    assert loss.get_config() == expected.get_config()


def test_flags_make_the_balanced_head_and_the_adjustment():
    learner = made(balanced_head="abc", steps=70, test_logit_adjustment=0.5)
    assert learner.balanced_head.get_config() == balance.ABC([3, 1], 70, 0.1).get_config()
    assert learner.test_logit_adjustment == 0.5
    assert made(learner="remixmatch").balanced_head is None


def test_docstring_example():
    outcome = doctest.testmod(combinations)
    assert outcome.attempted > 0
    assert outcome.failed == 0
