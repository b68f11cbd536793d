"""The predict command: many and large pictures, several classes, other formats and models."""

import csv
import io
import json
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import daso_tf
from daso_tf.commands import predict, served_model, terminal

NAMES = ("ant", "=bee()", "cät")
RESOLUTION = 8


class OtherResize(tf.Module):
    """A model that resizes images in another way than this package does."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def serve(self, images):
        small = tf.image.resize(images, (RESOLUTION, RESOLUTION), method="nearest")
        logits = tf.reduce_mean(tf.cast(small[:, ::3], tf.float32), axis=(1, 2)) / 9
        probabilities = tf.nn.softmax(logits)
        return {"class_ids": tf.argmax(probabilities, -1), "probabilities": probabilities}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of models by kind: an export, a learner, and the model of another program."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    encoder = daso_tf.encoders.wide_resnet(10, 1, (RESOLUTION, RESOLUTION, 3))
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    learner = daso_tf.FixMatch(encoder, len(NAMES), class_names=NAMES, **statistics)
    rng = np.random.default_rng(0)
    for weight in learner.ema_network_weights:  # random, so that images get different answers
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * np.where(weight == 0, 0.1, weight))
    learner.export(folder / "export")
    learner.save(folder / "learner.keras")
    other = OtherResize()
    tf.saved_model.save(other, str(folder / "other"), {"serving_default": other.serve})
    paths = {"export": folder / "export", "learner": folder / "learner.keras"}
    return paths | {"other": folder / "other"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pixels of pictures of many sizes, by the path of their file, in order."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    shown = {}
    for index in range(40):
        height, width = rng.integers(5, 30, 2) if index % 3 else (RESOLUTION, RESOLUTION)
        path = folder / f"{index:02}.png"
        low, high = sorted(rng.integers(0, 256, 2))
        shown[path] = rng.integers(low, high + 1, (height, width, 3), np.uint8)
        Image.fromarray(shown[path]).save(path)
    return shown


def run_predict(*argv):
    return terminal.call(predict.COMMAND, list(map(str, argv)))


def probabilities_of(models, kind, pictures):
    """The answers of the SavedModel to one picture at a time."""
    path = models["export" if kind == "learner" else kind]
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    answers = [serve(images=tf.constant(image[None])) for image in pictures.values()]
    return np.concatenate([answer["probabilities"] for answer in answers])


@pytest.mark.parametrize("kind", ["export", "learner", "other"])
def test_every_class_of_every_picture_is_that_of_the_saved_model(
    models, pictures, kind, tmp_path, monkeypatch
):
    monkeypatch.setattr(predict, "BATCH_SIZE", 7)
    folder, output = next(iter(pictures)).parent, tmp_path / "out.jsonl"
    model = f"--model={models[kind]}"
    assert run_predict(model, "--format=jsonl", "--top=3", f"--output={output}", folder) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["path"] for line in lines] == list(map(str, pictures))
    expected = probabilities_of(models, kind, pictures)
    assert np.ptp(expected, axis=0).max() > 0.05  # the pictures get different answers
    for line, row in zip(lines, expected, strict=True):
        ids = [entry["class_id"] for entry in line["classes"]]
        assert ids == np.argsort(-row).tolist()
        shares = [entry["probability"] for entry in line["classes"]]
        np.testing.assert_allclose(shares, row[ids], atol=1e-5)
        names = [entry["class_name"] for entry in line["classes"]]
        assert names == [None if kind == "other" else NAMES[k] for k in ids]


def test_pictures_are_reduced_only_where_the_answer_stays_the_same(models):
    reduces = {kind: served_model.open_model(str(path)).reduce for kind, path in models.items()}
    assert reduces["export"] and reduces["learner"] and not reduces["other"]


def test_a_model_of_one_size_gets_pictures_of_this_size(tmp_path, capfd):
    module = OtherResize()
    one_size = tf.TensorSpec([None, 16, 12, 3], tf.uint8, name="images")
    serve = module.serve.get_concrete_function(one_size)
    tf.saved_model.save(module, str(tmp_path / "model"), {"serving_default": serve})
    Image.new("RGB", (12, 16)).save(tmp_path / "a.png")
    assert run_predict(f"--model={tmp_path / 'model'}", tmp_path / "a.png") == 0
    assert capfd.readouterr().out.count("\n") == 2


def test_reduced_pictures_share_batches(models, pictures):
    model = served_model.open_model(str(models["export"]))
    sizes = [len(batch) for batch, _ in predict.classify(model, list(pictures))]
    assert sizes == [len(pictures)]


def test_pictures_that_are_not_reduced_share_a_batch_up_to_a_number_of_pixels(
    models, tmp_path, monkeypatch
):
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path in paths:
        Image.new("RGB", (30, 20)).save(path)
    model = served_model.open_model(str(models["other"]))
    for pixels, sizes in [(1, [1] * 5), (1300, [2, 2, 1]), (10**6, [5])]:
        monkeypatch.setattr(predict, "_BATCH_PIXELS", pixels)
        assert [len(batch) for batch, _ in predict.classify(model, paths)] == sizes


def test_few_pictures_are_read_ahead(models, pictures, monkeypatch):
    """However slow the reader of the output is."""
    read = []
    monkeypatch.setattr(predict, "_THREADS", 2)
    monkeypatch.setattr(
        predict, "read_image", lambda path, limit: read.append(path) or pictures[path]
    )
    monkeypatch.setattr(predict, "_BATCH_PIXELS", 1)
    model = served_model.open_model(str(models["other"]))
    batches = predict.classify(model, list(pictures))
    next(batches)
    batches.close()
    assert len(read) <= 5


def test_the_columns_of_several_classes(models, pictures, capfd):
    path = next(iter(pictures))
    assert run_predict(f"--model={models['export']}", "--top=2", path) == 0
    header, row = csv.reader(io.StringIO(capfd.readouterr().out))
    default = ["path", "class_id", "class_name", "probability"]
    assert header == [*default, "class_id_2", "class_name_2", "probability_2"]
    assert float(row[3]) >= float(row[6]) and row[1] != row[4]


def test_top_above_the_classes_is_refused_before_anything_is_written(models, tmp_path, capfd):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    output = tmp_path / "out.csv"
    arguments = (f"--model={models['export']}", f"--output={output}", tmp_path)
    assert run_predict("--top=4", *arguments) == 2
    assert "--top=4, but the model has 3 classes" in capfd.readouterr().err
    assert not output.exists()
    assert run_predict("--top=0", *arguments) == 2


def test_a_spreadsheet_runs_no_name(models, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    paths = [f"{start}cmd/a.png" for start in "=+-@\t"]
    for path in paths:
        os.mkdir(os.path.dirname(path))
        Image.new("RGB", (9, 9)).save(path)
    arguments = [f"--model={models['export']}", "--top=3"]
    assert run_predict(*arguments, "--", *paths) == 0
    _, *rows = csv.reader(io.StringIO(capfd.readouterr().out, newline=""))
    assert [row[0] for row in rows] == [f"'{path}" for path in paths]
    assert {rows[0][place] for place in (2, 5, 8)} == {"ant", "'=bee()", "cät"}
    assert run_predict(*arguments, "--format=jsonl", "--", *paths) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == paths
    assert {entry["class_name"] for entry in lines[0]["classes"]} == set(NAMES)


def names_of(*arguments):
    return [path.name for path in predict.image_paths(map(str, arguments))]


def test_quoted_patterns(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.jpg", "c.png", "deep/er/d.jpg", "[1].jpg", ".hidden.jpg", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names_of(tmp_path / "?.jpg") == ["a.jpg", "b.jpg"]
    assert names_of(tmp_path / "**" / "*.jpg") == ["[1].jpg", "a.jpg", "b.jpg", "d.jpg"]
    assert names_of(tmp_path / "d*") == ["d.jpg"]  # a folder
    assert names_of(tmp_path / "[1].jpg") == ["[1].jpg"]  # a file of this name
    assert names_of(tmp_path / "T*") == []
    monkeypatch.setenv("PICTURES", str(tmp_path))
    assert names_of("$PICTURES/c.*") == ["c.png"]
    with pytest.raises(ValueError, match=r"no file or folder.*x\*"):
        names_of(tmp_path / "x*")


def test_clutter_is_left_out_with_a_note(models, tmp_path, capfd):
    for name in ("Thumbs.db", "labels.csv", "@eaDir/a.png/thumbnail.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert run_predict(f"--model={models['export']}", tmp_path) == 0
    captured = capfd.readouterr()
    assert captured.out.count("\n") == 2
    assert "no pictures" in captured.err and "Thumbs.db" in captured.err
    # A file that is named on the command line is read.
    assert run_predict(f"--model={models['export']}", tmp_path / "labels.csv") == 1
    assert "1 of 1 files" in capfd.readouterr().err


def test_an_empty_folder_is_refused_before_the_model_is_loaded(tmp_path, capfd):
    output = tmp_path / "out.csv"
    (tmp_path / "empty").mkdir()
    assert run_predict(f"--model={tmp_path}", f"--output={output}", tmp_path / "empty") == 2
    assert "no pictures in" in capfd.readouterr().err and not output.exists()


def test_a_keras_file_that_is_none_is_named(tmp_path, capfd):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "bad.keras").write_text("no model")
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "o.keras")
    for name in ("bad.keras", "o.keras", "none.keras"):
        assert run_predict(f"--model={tmp_path / name}", tmp_path / "a.png") == 2
        said = "there is no model" if name == "none.keras" else f"{name}' cannot be used"
        assert said in capfd.readouterr().err


def test_a_closed_pipe_ends_as_in_other_programs(monkeypatch, capfd):
    """`| head`: no traceback, and the exit code that shells report for it."""

    def main(command, settings, arguments):
        raise BrokenPipeError

    monkeypatch.setattr(terminal.Command, "main", main)
    command = terminal.Command("predict", usage="PATH...")
    kept = os.dup(1)
    try:
        assert terminal.call(command, []) == 141
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert capfd.readouterr().err == ""


def test_the_output_of_predict_is_a_pipe_that_closes(models, pictures, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(1)
    os.dup2(writer, 1)
    monkeypatch.setattr(sys, "stdout", os.fdopen(os.dup(1), "w"))
    try:
        code = run_predict(f"--model={models['export']}", *pictures)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writer)
    assert code == 141
