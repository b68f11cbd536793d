"""The predict command: image files in, CSV out; unreadable files are left out and counted."""

import csv
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from daso_tf.commands import predict, terminal
from daso_tf.commands.predict import image_paths


@pytest.fixture(scope="module")
def export(finished_run):
    return finished_run.model_dir / "export"


@pytest.fixture
def pictures(tmp_path):
    """Pixels of images of several sizes and formats, by the path of their file."""
    rng = np.random.default_rng(0)
    shown = {}
    for name, size in [
        ("b/one.png", (8, 8)),
        ("b/two.png", (8, 8)),
        ("a/wide.bmp", (9, 17)),
        ('a/käse, "quoted".png', (40, 12)),
        ("three.png", (8, 8)),
    ]:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shown[path] = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(shown[path]).save(path)
    return shown


def run_predict(*argv):
    """Runs the predict command; returns its exit code."""
    return terminal.call(predict.COMMAND, list(map(str, argv)))


def rows(text):
    header, *lines = csv.reader(io.StringIO(text))
    assert header == ["path", "class_id", "class_name", "probability"]
    return lines


def test_the_prediction_of_an_image_does_not_depend_on_the_others(
    export, pictures, tmp_path, capfd
):
    assert run_predict(f"--model={export}", tmp_path / "pictures") == 0
    serve = tf.saved_model.load(str(export)).signatures["serving_default"]
    expected = []
    for path in sorted(pictures, key=lambda path: (path.parent.name in ("a", "b"), path)):
        answer = serve(images=tf.constant(pictures[path][None]))
        expected.append([str(path), int(answer["class_ids"][0]), answer["probabilities"][0]])
    lines = rows(capfd.readouterr().out)
    assert len(lines) == 5
    for (path, class_id, name, probability), (true_path, true_id, shares) in zip(
        lines, expected, strict=True
    ):
        assert (path, int(class_id), name) == (true_path, true_id, str(true_id))
        assert float(probability) == pytest.approx(float(np.max(shares)), abs=1e-4)


def test_files_keep_their_order_and_folders_are_sorted(pictures, tmp_path):
    root = tmp_path / "pictures"
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"")
    (root / ".DS_Store").write_bytes(b"")
    found = [path.name for path in image_paths([str(root / "b" / "two.png"), str(root)])]
    assert found == ["two.png", "three.png", 'käse, "quoted".png', "wide.bmp", "one.png", "two.png"]


def test_unreadable_files_are_named_and_left_out(export, pictures, tmp_path, capfd):
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "empty.png").write_bytes(b"")
    output = tmp_path / "out.csv"
    assert run_predict(f"--model={export}", f"--output={output}", tmp_path / "pictures") == 1
    captured = capfd.readouterr()
    assert len(rows(output.read_text(encoding="utf-8"))) == 5
    assert captured.out == ""
    assert "broken.png" in captured.err and "empty.png" in captured.err
    assert "2 of 7 files" in captured.err


@pytest.mark.parametrize("missing", ["model", "images"])
def test_missing_model_or_images_are_named(export, pictures, tmp_path, capfd, missing):
    model = tmp_path / "nowhere" if missing == "model" else export
    images = tmp_path / ("pictures" if missing == "model" else "nowhere")
    assert run_predict(f"--model={model}", images) == 2
    assert "nowhere" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["--model=somewhere"], ["picture.png"]])
def test_an_incomplete_command_line_is_refused(arguments, capfd):
    assert run_predict(*arguments) == 2
    assert "--model=FOLDER PATH" in capfd.readouterr().err
