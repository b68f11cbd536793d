"""The class distribution of the unlabeled images: known, read from a file, and estimated."""

import json

import numpy as np
import pytest
from command import arguments, built, run_train

import daso_tf
from daso_tf.commands import terminal
from daso_tf.commands.estimate_distribution import COMMAND, estimate, table, write
from daso_tf.data import unlabeled_distribution
from daso_tf.data.unlabeled_distribution import read

NAMES = ("cat", "dog", "owl")


def three_classes(unlabeled_labels=(0,) * 4 + (1,) * 4 + (2,) * 2, **options):
    images = np.zeros((16, 8, 8, 3), np.uint8)
    return daso_tf.data.from_arrays(
        images[:6],
        [0, 0, 0, 1, 1, 2],
        images[6:],
        unlabeled_labels=unlabeled_labels,
        class_names=NAMES,
        **options,
    )


def test_written_file_is_read_in_the_order_of_the_classes(tmp_path):
    write(tmp_path / "estimate.json", NAMES, np.array([5.5, 0.0, 2.0]))
    assert read(tmp_path / "estimate.json", ("owl", "cat", "dog")) == [2.0, 5.5, 0.0]
    resolved = unlabeled_distribution.unlabeled_distribution(
        str(tmp_path / "estimate.json"), three_classes()
    )
    assert resolved == [5.5, 0.0, 2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat: 3", "is not a JSON file"),
        ("[3, 2, 1]", "one number of at least 0 for each class"),
        ('{"cat": 3, "dog": -1, "owl": 2}', "one number of at least 0 for each class"),
        ('{"cat": 3, "dog": NaN, "owl": 2}', "one number of at least 0 for each class"),
        ('{"cat": 3, "dog": 1, "eel": 2}', "they differ in: eel, owl"),
    ],
)
def test_file_with_other_content_is_refused(content, message, tmp_path):
    (tmp_path / "estimate.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "estimate.json", NAMES)


def test_a_table_is_read_in_any_order(tmp_path):
    (tmp_path / "shares.csv").write_text("class,share\nowl,0.5\n\ncat, 0.25\ndog,0\n")
    assert read(tmp_path / "shares.csv", NAMES) == [0.25, 0.0, 0.5]
    (tmp_path / "SHARES.CSV").write_text("'=dog,3\ncat,1\n")
    assert read(tmp_path / "SHARES.CSV", ["cat", "=dog"]) == [1.0, 3.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat,1\ndog\nowl,2\n", "line 2 must be a class and a number"),
        ("cat,1\ndog,many\nowl,2\n", "line 2 must be a class and a number"),
        ("cat,1\ndog,2\ncat,2\n", "line 3 has the class 'cat' again"),
        ("cat,1\ndog,-2\nowl,2\n", "one number of at least 0 for each class"),
        ("cat,0\ndog,0\nowl,0\n", "not only zeros"),
        ("cat,1\ndog,2\n", "they differ in: owl"),
    ],
)
def test_a_table_with_other_content_is_refused(content, message, tmp_path):
    (tmp_path / "shares.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "shares.csv", NAMES)


def test_known_needs_the_true_classes():
    with pytest.raises(ValueError, match="the class of 1 of the 10 unlabeled images is not known"):
        unlabeled_distribution.unlabeled_distribution("known", three_classes((-1, *(0,) * 9)))


def test_estimated_distribution():
    rng = np.random.default_rng(0)
    confusion = rng.dirichlet(np.ones(4), 4).T + 2 * np.eye(4)
    confusion /= confusion.sum(axis=0)
    counts = np.array([70.0, 20.0, 10.0, 0.0])
    np.testing.assert_allclose(
        daso_tf.data.estimate_distribution(confusion, confusion @ counts), counts, atol=1e-9
    )
    noisy = daso_tf.data.estimate_distribution(confusion, confusion @ counts + rng.normal(0, 3, 4))
    assert (noisy >= 0).all() and noisy.argmax() == 0
    with pytest.raises(ValueError, match="No class distribution explains"):
        daso_tf.data.estimate_distribution(np.eye(2), np.zeros(2))


CONFUSION = np.array([[0.8, 0.1, 0.0], [0.2, 0.7, 0.3], [0.0, 0.2, 0.7]])


def confused(images):
    """Predictions of a classifier that mistakes some images of each class for another class."""
    return CONFUSION.T[images.labels].astype(np.float32)


def test_estimate_corrects_for_the_confusion_of_classes():
    validation = np.zeros((9, 8, 8, 3), np.uint8), [0, 1, 2] * 3
    data = three_classes(validation=validation)
    counts = estimate(data, confused)
    np.testing.assert_allclose(counts, [4, 4, 2], rtol=1e-5)
    lines = table(data, counts).splitlines()
    assert lines[0].split() == ["class", "labeled", "%", "estimated", "%", "true", "%"]
    assert lines[1].split() == ["cat", "50.0", "40.0", "40.0"]
    assert "true" not in table(three_classes((-1,) * 10), counts)


@pytest.mark.parametrize("validation", [None, (np.zeros((2, 8, 8, 3), np.uint8), [0, 2])])
def test_estimate_needs_validation_images_of_every_class(validation):
    data = three_classes(validation=validation)
    with pytest.raises(ValueError, match=r"no validation images of .*dog.*validation_size"):
        estimate(data, confused)


def test_command_estimates_from_a_finished_run(finished_run, tmp_path, capsys):
    """Training accepts the file that the command writes."""
    output = tmp_path / "estimate.json"
    flags = [f"--flagfile={finished_run.model_dir / 'flags.cfg'}", f"--output={output}"]
    assert terminal.call(COMMAND, flags) == 0
    assert capsys.readouterr().out.splitlines()[-11].startswith("class")
    counts = json.loads(output.read_text())
    assert list(counts) == [str(digit) for digit in range(10)]
    assert sum(counts.values()) == pytest.approx(70)  # the unlabeled images
    settings = {"pseudo_labeler": "darp", "darp_start": 0, "darp_period": 1, "steps": 2}
    command = arguments(unlabeled_distribution=output, evaluate_every=2, **settings)
    assert run_train(*command, f"--model_dir={tmp_path / 'run'}") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sum(results["evaluations"][0]["pseudo_labels"]["final"]["assigned"]) == 2 * 16


def test_flags_make_the_pseudo_labeler():
    settings = {"unlabeled_distribution": "known", "steps": 50, "jit_compile": "auto"}
    learner = built(three_classes(), *arguments(pseudo_labeler="darp", darp_start=0.5, **settings))
    labeler = learner.pseudo_labeler
    assert labeler.class_distribution == (4.0, 4.0, 2.0)
    assert (labeler.num_images, labeler.start_step, labeler.period) == (10, 25, 10)
    assert learner.jit_compile is False
    learner = built(three_classes(), *arguments(pseudo_labeler="distribution_alignment"))
    assert learner.pseudo_labeler.alignment.target_distribution == (3.0, 2.0, 1.0)
