"""Data without test or unlabeled images: what trains, what is reported, what is refused."""

import json
import shutil

import keras
import numpy as np
import pytest
from command import arguments, built, run_train
from PIL import Image

from daso_tf import Supervised, data
from daso_tf.commands import describe, terminal
from daso_tf.run.report import table
from daso_tf.run.results import Results

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
ALONE = data.from_arrays(IMAGES[:4], [0, 1, 0, 1], IMAGES[:0])


@pytest.fixture
def folder(tmp_path):
    """Eight labeled and eight unlabeled images; no test images."""
    for k in range(8):
        for part in (f"train/{'cat' if k % 2 else 'dog'}", "unlabeled"):
            path = tmp_path / "pictures" / part / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(IMAGES[k] // (1 + (part == "unlabeled"))).save(path)
    return tmp_path / "pictures"


def command(folder, **settings):
    own = {
        "dataset": "image_folder",
        "data_dir": folder,
        "model_dir": folder.parent / "run",
        "labeled_head": 0,
        "labeled_imbalance": 1,
        "unlabeled_head": 0,
        "unlabeled_imbalance": 1,
        "validation_size": 0,
        "batch_size": 2,
        "steps": 2,
        "evaluate_every": 500,
        "pretrain_steps": 1,
    }
    return arguments(**{**own, **settings})


def test_without_test_and_validation_images_only_pseudo_labels_are_reported(folder, capsys):
    assert run_train(*command(folder)) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert rows[next(i for i, row in enumerate(rows) if row[:1] == ["class"])][:5] == [
        "class",
        "labeled",
        "unlabeled",
        "recall",
        "%",
    ]
    run = folder.parent / "run"
    assigned = json.loads((run / "results.json").read_text())["evaluations"][-1]
    assigned = assigned["pseudo_labels"]["final"]["assigned"]
    cat = next(row for row in rows if row[:1] == ["cat"])
    assert cat[1:] == ["4", "-", "-", "-", "-", str(round(assigned[0]))]
    assert (run / "results.png").exists()
    assert (run / "export" / "saved_model.pb").exists()


def test_images_to_try_the_export_need_test_images(folder, capsys):
    assert run_train(*command(folder, test_images=2)) == 2
    assert "--test_images=2, but there are no test images" in capsys.readouterr().err


def test_results_of_a_part_that_was_added_later(tmp_path):
    share = {"accuracy": 0.5, "balanced_accuracy": 0.25, "recall": [0.25, 0.25]}
    results = Results(tmp_path / "results.json", ["a", "b"], [1, 1], None)
    results.add({"step": 1, "pseudo_labels": {}})
    results.add({"step": 2, "pseudo_labels": {}, "test": {**share, "logit_adjusted": share}})
    assert results.medians()["test"]["accuracy"] == 0.5
    assert "step 2, test: accuracy 50.0 %" in table(results)


def test_supervised_learning_needs_only_labeled_images(folder, capsys, monkeypatch):
    """There are validation images here, from which the results come."""
    shutil.rmtree(folder / "unlabeled")
    shutil.copytree(folder / "train", folder / "val")
    messages = []
    monkeypatch.setattr("absl.logging.warning", lambda *message: messages.append(message))
    given = command(folder, learner="supervised")
    assert terminal.call(describe.COMMAND, given) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "8", "0", "8", "-"] in rows
    assert run_train(*given) == 0
    output = capsys.readouterr().out
    assert "step 2, validation: accuracy" in output
    assert "median of the last 1 evaluations, validation: accuracy" in output
    assert ("There are no test images: %s.", "results come from the validation images") in messages


def test_other_learners_refuse_data_without_unlabeled_images(folder, capsys):
    for path in (folder / "unlabeled").iterdir():
        path.unlink()
    (folder / "unlabeled").rmdir()
    assert run_train(*command(folder)) == 2
    assert "both labeled_head and unlabeled_head must be given" in capsys.readouterr().err
    with pytest.raises(data.DataError, match=r"no unlabeled images.*`supervised` needs none"):
        data.training_batches(ALONE, batch_size=2, unlabeled_ratio=1, seed=0)


def test_supervised_learning_is_the_same_without_unlabeled_images():
    whole = data.from_arrays(IMAGES[:4], [0, 1, 0, 1], IMAGES[4:])

    def trained(images, **more):
        keras.utils.set_random_seed(0)
        model = built(images, *arguments(learner="supervised"))
        more = {**model.batch_arguments, **more}
        sizes = {"batch_size": 2, "unlabeled_ratio": 2, "seed": 0}
        model.fit(data.training_batches(images, **sizes, **more), steps_per_epoch=2, verbose=0)
        return model.get_weights()

    for alone, expected in zip(trained(whole), trained(whole, labeled_alone=False), strict=True):
        np.testing.assert_array_equal(alone, expected)


def test_encoders_of_keras_are_evaluated_without_unlabeled_images():
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    pool = keras.layers.GlobalAveragePooling2D()
    encoder = keras.Sequential([keras.Input((8, 8, 3)), *layers, pool])
    model = Supervised(encoder, 2, mean=(0.5,) * 3, std=(0.25,) * 3)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    sizes = {"batch_size": 2, "unlabeled_ratio": 1, "seed": 0}
    batches = data.training_batches(ALONE, **sizes, **model.batch_arguments)
    history = model.fit(
        batches, steps_per_epoch=2, validation_data=(IMAGES[:2], np.array([0, 1])), verbose=0
    )
    assert np.isfinite(history.history["val_loss"]).all()


def test_batches_without_unlabeled_images():
    batches = data.training_batches(
        ALONE, batch_size=2, unlabeled_ratio=2, seed=0, labeled_alone=True
    )
    (labeled, unlabeled), labels = next(iter(batches))
    assert (labeled.shape, unlabeled.shape, labels.shape) == ((2, 8, 8, 3), (0, 8, 8, 3), (2,))
    whole = data.from_arrays(IMAGES[:4], [0, 1, 0, 1], IMAGES[4:], unlabeled_labels=[0] * 8)
    others = data.training_batches(whole, batch_size=2, unlabeled_ratio=2, seed=0)
    (expected, _), _ = next(iter(others))
    np.testing.assert_array_equal(labeled, expected)
