"""The report of a run: tables of all pictures, the page, and what is refused."""

import base64
import csv
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command import arguments, parsed, run_train
from PIL import Image

from daso_tf.commands import label_next as label_next_command
from daso_tf.commands import terminal
from daso_tf.commands.report import COMMAND
from daso_tf.data import load, loading
from daso_tf.run.inspection import label_next as of_label_next
from daso_tf.run.inspection.accuracy import measure
from daso_tf.run.inspection.charts import over_steps
from daso_tf.run.inspection.inspect import inspect
from daso_tf.run.inspection.label_next import choose, weights_of
from daso_tf.run.inspection.summary import Found, advice, sentences
from daso_tf.run.inspection.tables import LABELED, UNLABELED
from daso_tf.run.preparation import prepare
from daso_tf.step.class_shares import Predictions, estimate_class_shares

pytest.importorskip("jinja2", reason="Jinja2 is part of the base installation")

CLASSES = {"ant": (200, 40, 40), "bee & <b>": (40, 200, 40), "cat": (40, 40, 200)}
TRAINED = dict(zip(CLASSES, (9, 6, 4), strict=True))


def picture(path, color, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 25, (12, 12, 3))
    pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The folder of a run on generated pictures, with its report; one label is wrong."""
    root = tmp_path_factory.mktemp("report")
    for k, (name, color) in enumerate(CLASSES.items()):
        for i in range(TRAINED[name]):
            picture(root / "data" / "train" / name / f"{i}.png", color, 100 * k + i)
        for i in range(4):
            picture(root / "data" / "test" / name / f"{i}.png", color, 1000 + 100 * k + i)
        for i in range(8):
            picture(root / "data" / "unlabeled" / f"{k}_{i}.png", color, 2000 + 100 * k + i)
    wrong = root / "data" / "train" / "ant" / "wrong.png"
    picture(wrong, CLASSES["cat"], 5000)
    shutil.copy(root / "data" / "test" / "cat" / "0.png", root / "data" / "unlabeled" / "=copy.png")
    of_run = {"steps": 12, "evaluate_every": 6, "report": True, "compare_labels_only": True}
    assert run_train(*command_line(root, "run", **of_run)) == 0
    return root / "run"


def command_line(root, name, **more):
    return arguments(
        dataset="image_folder",
        data_dir=root / "data",
        model_dir=root / name,
        labeled_head=0,
        labeled_imbalance=1,
        unlabeled_head=0,
        unlabeled_imbalance=1,
        validation_size=0,
        **more,
    )


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def report(*argv):
    return terminal.call(COMMAND, [str(argument) for argument in argv])


def test_every_unlabeled_picture_has_a_row(reported):
    rows = rows_of(reported / "unlabeled.csv")
    lines = [json.loads(line) for line in (reported / "unlabeled.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == 25
    assert tuple(rows[0]) == tuple(lines[0]) == UNLABELED
    assert {line["path"] for line in lines} == {"unlabeled/=copy.png"} | {
        f"unlabeled/{k}_{i}.png" for k in range(3) for i in range(8)
    }
    for row, line in zip(rows, lines, strict=True):
        assert row["path"].endswith(line["path"])
        assert line["class"] in CLASSES and line["final"] in CLASSES
        assert float(row["confidence"]) == pytest.approx(line["confidence"], abs=1e-4)
        assert 0 <= line["margin"] <= line["confidence"] <= 1 and 0 <= line["entropy"] <= 1
        assert line["taught_weight"] == (line["confidence"] > 0)  # --confidence_threshold=0.1
        assert (line["unknown"], row["unknown"]) == (None, "")  # there are no validation pictures


def test_the_nearest_labeled_picture_is_of_the_same_color(reported):
    lines = [json.loads(line) for line in (reported / "unlabeled.jsonl").read_text().splitlines()]
    names = list(CLASSES)
    expected = [names[int(Path(line["path"]).name[0])] for line in lines if "=" not in line["path"]]
    found = [line["nearest_prototype"] for line in lines if "=" not in line["path"]]
    assert np.mean([a == b for a, b in zip(expected, found, strict=True)]) > 0.9
    assert all(line["nearest_labeled"].startswith("train/") for line in lines)


def test_a_wrong_label_is_suspected(reported):
    rows = {row["path"]: row for row in rows_of(reported / "labeled.csv")}
    assert tuple(next(iter(rows.values()))) == LABELED and len(rows) == 20
    assert rows["train/ant/wrong.png"]["suspected"] == "cat"
    assert {int(row["fold"]) for row in rows.values()} == {0, 1, 2, 3, 4}
    (suspect, *_) = rows_of(reported / "report" / "suspected_labels.csv")
    assert suspect["path"] == "train/ant/wrong.png" and suspect["seems"] == "cat"
    assert rows["train/ant/wrong.png"]["nearest_labeled"] != "train/ant/wrong.png"


def test_class_shares_are_in_the_results(reported):
    shares = json.loads((reported / "results.json").read_text())["class_shares"]
    assert shares["step"] == 12 and shares["calibrated_on"] == "labeled"
    for method in ("em", "matrix"):
        estimate = {name: np.array(values) for name, values in shares[method].items()}
        assert estimate["value"].sum() == pytest.approx(1)
        assert (estimate["low"] <= estimate["high"]).all()
        np.testing.assert_allclose(estimate["value"], 1 / 3, atol=0.2)


class Page(html.parser.HTMLParser):
    """What a page consists of; fails where an element is not closed in order."""

    VOID = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.headings, self.pictures, self.addresses = [], [], [], []
        self.ids, self.text = [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.pictures.append(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[name] for name in ("href", "src") if name in attributes]
        assert tag not in ("script", "link", "iframe", "object", "embed")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_valid_and_needs_nothing_else(reported):
    path = reported / "report.html"
    assert path.stat().st_size < 10_000_000
    page = Page(path)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    steps = np.diff(page.headings)
    assert steps.max() <= 1  # no level is left out
    assert len(set(page.ids)) == len(page.ids)
    assert len(page.pictures) > 20
    for attributes in page.pictures:
        assert attributes["alt"] and attributes["src"].startswith("data:image/")
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.ids
        elif not address.startswith("data:"):
            assert ":" not in address and not address.startswith("/")
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    text = " ".join(page.text)
    assert "19 labeled" not in text and "20 labeled pictures of 3 classes" in text
    assert "bee & <b>" in text  # as text, not as markup
    assert "Remove the copies across parts" in text


def test_the_page_says_what_the_unlabeled_pictures_changed(reported):
    comparison = json.loads((reported / "results.json").read_text())["comparison"]
    change = comparison["changes"]["test"]["all"]
    text = re.sub(r"\s+", " ", " ".join(Page(reported / "report.html").text))
    assert (
        "Compared with a twin that learned from the labels alone, the unlabeled pictures changed "
        f"the balanced accuracy on the test pictures by {100 * change['change']:+.1f} points "
        f"(standard error {100 * change['standard_error']:.1f})"
    ) in text
    assert "Did the unlabeled pictures help?" in text
    of_twin = comparison["parts"]["test"]["labels_only"]["balanced_accuracy"]
    assert f"labels only {100 * of_twin:.1f}" in text
    assert "--compare_labels_only" not in text.replace("--compare_labels_only true", "")


RIGHT, OFTEN, RARELY = (
    {"balanced_accuracy": share, "recall": [share]} for share in (0.9, 0.8, 0.3)
)


@pytest.mark.parametrize(
    ("change", "parts", "exported", "said", "not_said"),
    [
        (0.1, {}, "run", ["+10.0 points (standard error 1.0): they helped."], ["--answer"]),
        (0.01, {}, "run", ["this is no clear change."], ["--answer"]),
        (-0.1, {}, "run", ["they did harm.", "(--answer=labels_only)"], []),
        (-0.1, {}, "labels_only", ["described here, is the twin"], ["(--answer=labels_only)"]),
        (0.1, {"logistic": RIGHT, "discriminant": OFTEN}, "run", ["--answer=logistic"], []),
        (0.1, {"logistic": RARELY}, "run", [], ["--answer"]),
        (None, {}, "run", ["--compare_labels_only"], ["Compared with"]),
    ],
)
def test_advice_follows_what_the_unlabeled_pictures_changed(
    change, parts, exported, said, not_said
):
    comparison = None
    if change is not None:
        of_all = {"all": {"change": change, "standard_error": 0.01}}
        comparison = {"parts": {"test": parts}, "changes": {"test": of_all}}
        comparison["answer"] = {"exported": exported}
    text = " ".join(line for of in (sentences, advice) for line in of(found(comparison)))
    assert all(words in text for words in said)
    assert not any(words in text for words in not_said)


def test_a_run_that_uses_no_unlabeled_pictures_is_not_asked_what_they_changed():
    assert "unlabeled pictures have changed" not in " ".join(advice(found(None, False)))


def test_a_curve_of_one_evaluation_is_a_point():
    scored = {"balanced_accuracy": 0.5}
    evaluations = [{"step": n, "test": scored | {"logit_adjusted": scored}} for n in (5, 10)]

    def points(evaluations):
        picture = over_steps(evaluations).uri.partition("base64,")[2]
        return base64.b64decode(picture).decode().count("fill: #4269d0")

    assert points(evaluations[:1]) > 0 == points(evaluations)


def test_what_looks_like_no_class_is_kept_out_by_an_open_set():
    many = found(None)._replace(unknown=20)
    assert "or train with --open_set" in " ".join(advice(many))
    kept_out = " ".join(advice(many._replace(has_open_set=True)))
    assert "--open_set has kept them out" in kept_out and "train with" not in kept_out


def found(comparison, uses_unlabeled=True):
    """What is found out about a run whose network is right in half of 40 test pictures."""
    labels = np.repeat([0, 1], 20)
    half = np.full((40, 2), 0.5) + np.tile([[0.1, -0.1], [-0.1, 0.1]], (20, 1))
    shares = estimate_class_shares(Predictions(np.log(half), labels, np.log(half)), resamples=2)
    return Found(
        class_names=["ant", "bee"],
        labeled_counts=[20, 20],
        unlabeled=40,
        unreadable=0,
        predicted=np.array([20, 20]),
        step=9,
        steps=9,
        learner="fixmatch + daso",
        held_out="validation",
        accuracy=measure("test", labels, half, [20, 20]),
        shares=shares,
        unknown=None,
        rejected=0.05,
        auroc=None,
        has_open_set=False,
        taught=None,
        suspected=0,
        copies=0,
        is_frozen=True,
        uses_unlabeled=uses_unlabeled,
        comparison=comparison,
    )


def test_links_lead_to_files(reported):
    from urllib.parse import unquote

    links = [
        address
        for address in Page(reported / "report.html").addresses
        if not address.startswith(("#", "data:"))
    ]
    assert any("=copy.png" in unquote(link) for link in links)
    for link in links:
        assert (reported / unquote(link)).is_file()


def test_copies_across_parts_are_listed(reported):
    pytest.importorskip("imagehash")
    copies = rows_of(reported / "report" / "near_copies.csv")
    exact = [copy for copy in copies if copy["kind"] == "identical"]
    assert [(copy["part"], copy["copy_of"]) for copy in exact] == [("unlabeled", "test/cat/0.png")]


def test_copies_that_are_dropped_are_searched_once(reported, monkeypatch):
    pytest.importorskip("imagehash")
    argv = command_line(reported.parent, "dropped", drop_copies=True)
    run = prepare(parsed(*argv))
    monkeypatch.setattr(loading, "find_copies", lambda *_: pytest.fail("searched again"))
    inspect(run.settings, run.data, run.identity, run.learner, run.results, run.copies)
    copies = rows_of(run.model_dir / "report" / "near_copies.csv")
    assert not [copy for copy in copies if copy["part"] == "unlabeled"]


def test_a_browser_shows_all_pictures(reported):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    script = "document.title=[...document.images].every(i=>i.complete&&i.naturalWidth>0)"
    page = (reported / "report.html").read_text()
    copy = reported / "with_script.html"
    copy.write_text(page.replace("</body>", f"<script>onload=()=>{{{script}}}</script></body>"))
    shown = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    copy.unlink()
    assert "<title>true</title>" in shown.stdout
    assert "CONSOLE" not in shown.stderr


def test_another_step_is_reported(reported, tmp_path):
    shutil.copytree(reported, tmp_path / "run")
    before = json.loads((reported / "results.json").read_text())
    assert report(tmp_path / "run", "--step=6") == 0
    after = json.loads((tmp_path / "run" / "results.json").read_text())
    assert after["class_shares"]["step"] == 6
    assert {**after, "class_shares": 0} == {**before, "class_shares": 0}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "after step 6" in page
    assert "Compared with a twin" not in page  # which is one of step 12


def test_another_export_changes_no_report(reported, tmp_path):
    shutil.copytree(reported, tmp_path / "run")
    path = tmp_path / "run" / "results.json"
    results = json.loads(path.read_text())
    results["comparison"]["answer"] = {"asked": "labels_only", "exported": "labels_only"}
    path.write_text(json.dumps(results))
    assert report(tmp_path / "run") == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Compared with a twin" in page and "described here" not in page


def label_next(*argv):
    return terminal.call(label_next_command.COMMAND, [str(argument) for argument in argv])


def test_the_list_of_what_to_label_is_a_label_file(reported, tmp_path):
    data_dir = reported.parent / "data"
    path = tmp_path / "next.csv"
    assert label_next(reported, "--count=4", f"--output={path}") == 0
    rows = rows_of(path)
    first = rows[:4]
    assert all(row["label"] == row["part"] == "" and row["guess"] in CLASSES for row in first)
    assert all(row["path"].startswith("unlabeled/") for row in first)
    assert len(rows) == len({row["path"] for row in rows}) == 20 + 25 + 12
    asked = [row for row in rows if row["path"].startswith("unlabeled/")]
    # A person may also label pictures that follow the first ones.
    for filled_in, labeled in ((0, 20), (4, 24), (9, 29)):
        for row in asked[:filled_in]:
            row["label"] = "cat"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        loaded = load("image_list", data_dir=data_dir, labels=path, resolution=8)
        assert (len(loaded.labeled), len(loaded.unlabeled)) == (labeled, 45 - labeled)
        assert len(loaded.test) == 12 and loaded.validation is None


def test_what_to_label_cannot_be_more_than_there_is(reported, tmp_path, capsys):
    assert label_next(reported, "--count=26", f"--output={tmp_path / 'next.csv'}") == 2
    assert "has 25 unlabeled pictures; it must be from 1 to 25" in capsys.readouterr().err
    assert label_next(reported, "--count=0") == 2
    assert "--count" in capsys.readouterr().err
    (tmp_path / "flags.cfg").write_text("--dataset=digits\n")
    assert label_next(tmp_path) == 2
    assert "only in a run on image_folder or image_list" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["flags.cfg"]


def test_near_copies_are_not_chosen_twice():
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(5, 8)), 4, axis=0) + rng.normal(0, 1e-4, (20, 8))
    chosen = choose(features, rng.uniform(0.5, 1, 20), 5, labeled=rng.normal(size=(3, 8)))
    assert sorted(place // 4 for place in chosen.tolist()) == [0, 1, 2, 3, 4]


def test_what_is_chosen_is_the_best_next_picture_each_time():
    """Against a plain search; the last of the chosen add almost nothing."""
    rng = np.random.default_rng(1)
    features, labeled, weights = rng.normal(size=(60, 4)), rng.normal(size=(5, 4)), rng.random(60)

    def cosine(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    def represented(chosen):
        known = [*labeled, *features[chosen]]
        best = [max(0, *(cosine(one, other) for other in known)) ** 4 for one in features]
        return weights @ best

    chosen = choose(features, weights, 12, labeled).tolist()
    assert len(set(chosen)) == 12
    for place in range(12):
        before = chosen[:place]
        others = [n for n in range(60) if n not in before]
        values = {n: represented([*before, n]) for n in others}
        np.testing.assert_allclose(values[chosen[place]], max(values.values()), rtol=1e-9)
    # With all of them, no picture is taken twice.
    assert sorted(choose(features, weights, 60, labeled)) == list(range(60))


def test_the_weights_of_a_sample_estimate_the_sum_over_all():
    rng = np.random.default_rng(2)
    worth = rng.random(2000) ** 4
    value = rng.random(2000) + worth
    estimates = []
    for _ in range(300):
        keys = rng.exponential(size=2000) / worth
        order = np.argsort(keys)
        weights = weights_of(worth[order[:200]], keys[order[200]])
        estimates.append(weights @ value[order[:200]])
    error = np.std(estimates) / 300**0.5
    assert abs(np.mean(estimates) - worth @ value) < 4 * error
    assert np.std(estimates) < 0.1 * (worth @ value)
    assert weights_of(np.array([0.0, 0.5]), np.inf).tolist() == [0.0, 0.5]


def test_what_to_label_is_chosen_from_a_sample_of_many(reported, tmp_path, monkeypatch):
    monkeypatch.setattr(of_label_next, "_SAMPLE", 8)
    paths = [tmp_path / "one.csv", tmp_path / "other.csv"]
    for path in paths:
        assert label_next(reported, "--count=3", f"--output={path}") == 0
    assert paths[0].read_text() == paths[1].read_text()
    assert len({row["path"] for row in rows_of(paths[0])}) == 20 + 25 + 12
    assert all(row["guess"] for row in rows_of(paths[0])[:3])


def test_what_cannot_be_reported_is_one_line(reported, tmp_path, capsys):
    for argv, said in (
        ([tmp_path], "is no folder of a training run"),
        ([], "needs one argument"),
        ([reported, "--step=3"], "no checkpoint of step 3; it has those of 12, 6"),
        ([reported, "--step=6", "--best"], "give one of them"),
    ):
        assert report(*argv) == 2
        message = capsys.readouterr().err
        assert said in message and message.count("\n") == 1


def test_a_run_without_unlabeled_pictures_is_refused(reported, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(reported.parent / "data" / "train", data / "train")
    argv = arguments(
        dataset="image_folder",
        data_dir=data,
        model_dir=tmp_path / "run",
        learner="supervised",
        labeled_head=0,
        labeled_imbalance=1,
        unlabeled_head=0,
        unlabeled_imbalance=1,
        validation_size=0,
        steps=1,
    )
    of_fixmatch = ("--queue_size", "--pretrain", "--distribution", "--confidence", "--cutout")
    assert run_train(*(flag for flag in argv if not flag.startswith(of_fixmatch))) == 0
    assert not (tmp_path / "run" / "report.html").exists()
    capsys.readouterr()
    assert report(tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "no unlabeled pictures" in message and "--unlabeled_head of at least 1" in message
    assert not (tmp_path / "run" / "unlabeled.csv").exists()
