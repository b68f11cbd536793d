"""Runs side by side: the page and the table, from the files of the runs alone."""

import html.parser
import json
import shutil
import subprocess

import numpy as np
import pytest

from daso_tf.commands import terminal
from daso_tf.commands.report import COMMAND
from daso_tf.data.identity import Part
from daso_tf.run.inspection.side_by_side import scored, tables
from daso_tf.step.class_shares import bootstrap

pytest.importorskip("jinja2", reason="Jinja2 is part of the base installation")


def report(*argv):
    return terminal.call(COMMAND, [str(argument) for argument in argv])


@pytest.fixture
def runs(finished_run, tmp_path):
    """The files of a run, and of one with other settings that is better."""
    folders = [tmp_path / "runs" / name for name in ("plain", "other <b>")]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("flags.cfg", "data.json", "results.json"):
            shutil.copy(finished_run.model_dir / name, folder / name)
    change(folders[1], lambda results: results["exported"]["test"].update(
        recall=[0.9] * 10, accuracy=0.9, balanced_accuracy=0.9
    ))  # fmt: skip
    flags = folders[1] / "flags.cfg"
    flags.write_text(flags.read_text().replace("--seed=0", "--seed=3"))
    return folders


def change(folder, edit):
    path = folder / "results.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_scores_are_those_of_the_exports(runs):
    plain, other = scored(runs)
    assert (plain.name, other.name) == ("plain", "other <b>")
    expected = json.loads((runs[0] / "results.json").read_text())["exported"]["test"]
    assert float(plain.accuracy.value) == pytest.approx(expected["accuracy"])
    assert float(plain.balanced.value) == pytest.approx(expected["balanced_accuracy"])
    counts = json.loads((runs[0] / "data.json").read_text())["test"]["images_by_class"]
    labels = np.repeat(range(10), counts)
    of_classes = np.rint(np.array(expected["recall"]) * counts).astype(int)
    right = np.concatenate(
        [np.arange(n) < hits for n, hits in zip(counts, of_classes, strict=True)]
    )
    found = bootstrap(lambda chosen: right[chosen].mean(), labels, resamples=2000)
    for end, of_images in zip(plain.accuracy, found, strict=True):
        assert float(end) == pytest.approx(float(of_images), abs=0.004)
    assert list(plain.groups) == ["head", "medium", "tail"]
    for group in other.groups.values():
        assert float(group.value) == pytest.approx(0.9, abs=0.02)
        assert group.low < group.value < group.high


def test_only_settings_that_differ_are_shown(runs):
    by_key = {table.key: table for table in tables(scored(runs))}
    *differing, _ = by_key["settings"].rows
    assert differing == [["--seed", "0", "3"]]
    assert len(by_key["classes"].rows) == 10
    scores = by_key["scores"]
    of_plain, of_other = (row[scores.columns.index("change")] for row in scores.rows)
    assert of_other.startswith("+") and of_plain == ""


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.errors, self.sources, self.texts = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                self.sources.append(value)
        if tag == "img" and not dict(attributes).get("alt"):
            self.errors.append("an image without alt")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}>")

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_needs_nothing_else(runs, tmp_path, capsys):
    output = tmp_path / "new" / "page.html"
    assert report("--compare", f"--output={output}", *runs) == 0
    printed = capsys.readouterr().out
    assert "plain" in printed and f"Wrote {output}" in printed
    page = Page()
    page.feed(output.read_text(encoding="utf-8"))
    assert not page.errors and not page.open
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    text = " ".join(page.texts)
    assert "other <b> has the best balanced accuracy" in text
    assert "more than chance" in text and "different pictures" not in text


def test_runs_on_other_pictures_are_said_to_differ(runs, tmp_path):
    path = runs[1] / "data.json"
    content = json.loads(path.read_text())
    of_test = content["test"]
    names = tuple(f"other {name}" for name in of_test["names"])
    part = Part(names, tuple(of_test["sizes"]), tuple(of_test["labels"]), of_test["has_files"])
    of_test.update(names=names, fingerprint=part.fingerprint)
    path.write_text(json.dumps(content))
    output = tmp_path / "page.html"
    assert report("--compare", f"--output={output}", *runs) == 0
    assert "evaluated on different pictures or classes" in output.read_text()


def test_the_page_in_a_browser(runs, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    output = tmp_path / "page.html"
    assert report("--compare", f"--output={output}", *runs) == 0
    script = "document.title=String([...document.images].every(i=>i.complete&&i.naturalWidth>0))"
    text = output.read_text().replace("</body>", f"<script>onload=()=>{{{script}}}</script></body>")
    output.write_text(text)
    shown = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", output.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "<title>true</title>" in shown.stdout and "CONSOLE" not in shown.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--compare", 0], "at least two runs"),
        (["--compare", 0, 0], "is given twice"),
        (["--compare", 0, "none"], "is no folder of a training run"),
        (["--compare", 0, "unfinished"], "has no results.json"),
        (["--compare", 0, "damaged"], "is damaged"),
        (["--compare", 0, "unevaluated"], "was not evaluated on test or validation pictures"),
        (["--compare", "--best", 0, 1], "--best does not go with --compare"),
        (["--compare", "--step=2", 0, 1], "--step does not go with --compare"),
        (["--compare", "--output=.", 0, 1], "is a folder"),
        (["--output=page.html", 0], "--output is for --compare"),
    ],
)
def test_what_cannot_be_compared_is_one_line(argv, message, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("unfinished", "damaged", "unevaluated"):
        shutil.copytree(runs[0], name)
    (tmp_path / "unfinished" / "results.json").unlink()
    (tmp_path / "damaged" / "results.json").write_text("{")

    def forget(results):
        for entry in (results["exported"], *results["evaluations"]):
            entry.pop("test"), entry.pop("validation")

    change(tmp_path / "unevaluated", forget)
    assert report(*(runs[a] if isinstance(a, int) else a for a in argv)) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "comparison.html").exists()
