"""Names of classes are text, never markup: in pictures, in tables, on any terminal."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from daso_tf import data
from daso_tf.commands import describe, estimate_distribution, terminal
from daso_tf.data.text import printable
from daso_tf.run import report
from daso_tf.run.results import Results
from daso_tf.settings.settings import Settings

NAMES = ["$1_$", "_x^{", "\\alpha{", "é\n", "\x1b[31m", "猫", "<b>&amp;", "%s{0}", "x" * 250]
K = len(NAMES)


def results(path):
    share = {"accuracy": 0.5, "balanced_accuracy": 0.5, "recall": [0.5] * K}
    final = {"recall": [0.5] * K, "precision": [0.5] * K, "assigned": [3] * K}
    found = Results(path / "results.json", NAMES, [2] * K, None)
    pseudo_labels = {"final": final}
    found.add(
        {
            "step": 5,
            "test": {**share, "logit_adjusted": share},
            "pseudo_labels": pseudo_labels,
        }
    )
    return found


def described():
    images = np.random.default_rng(0).integers(0, 256, (2 * K, 8, 8, 3), np.uint8)
    return data.from_arrays(images, np.arange(2 * K) % K, images[:4], class_names=NAMES)


def test_pictures_of_results_show_names_as_they_are(tmp_path):
    path = tmp_path / "results.png"
    report.draw(results(tmp_path), path)
    with Image.open(path) as picture:
        picture.verify()
    describe.figure(described()).savefig(tmp_path / "data.png")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_picture_that_fails_never_ends_training(tmp_path, monkeypatch, caplog):
    found = results(tmp_path)
    with pytest.raises(FileNotFoundError):  # as from a full disk, which the command reports
        report.draw(found, tmp_path / "no folder" / "results.png")
    monkeypatch.setattr(report, "_figure", lambda results: 1 / 0)
    report.draw(found, tmp_path / "results.png")
    (line,) = caplog.messages
    assert "results.png is not drawn (ZeroDivisionError" in line


def test_a_class_is_one_line_of_a_table(tmp_path):
    counts = np.ones(K)
    tables = [report.table(results(tmp_path)), describe.table(described())]
    tables.append(estimate_distribution.table(described(), counts))
    for table in tables:
        for name in ("é\\n ", "\\x1b[31m ", "$1_$ ", "猫 "):
            assert sum(line.startswith(name) for line in table.splitlines()) == 1
        assert "\x1b" not in table


def test_printable():
    assert [printable(name) for name in ("a b", "\udc80", "\t\u2028", "猫")] == [
        "a b",
        "\\udc80",
        "\\t\\u2028",
        "猫",
    ]
    assert printable("x" * 9, 9) == "x" * 9
    assert printable("x" * 10, 9) == "x" * 8 + "…"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\u732b"), ("latin-1", "\\u732b"), ("utf-8", "猫")]
)
def test_a_terminal_that_cannot_print_a_name_gets_it_escaped(encoding, shown, monkeypatch):
    def main(command: terminal.Command, settings: Settings, arguments: list[str]) -> int:
        print("猫")
        raise ValueError("猫")

    written = [io.BytesIO(), io.BytesIO()]
    for name, file in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding, write_through=True))
    monkeypatch.setattr(terminal.Command, "main", main)
    assert terminal.call(terminal.Command("describe"), []) == terminal.UNUSABLE
    assert written[0].getvalue().decode(encoding) == f"{shown}\n"
    assert written[1].getvalue().decode(encoding) == f"daso-tf: {shown}\n"
