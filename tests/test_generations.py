"""Self-training by generations through the train command."""

import doctest

import numpy as np
import pytest
from command import arguments, run_train

from daso_tf import data
from daso_tf.run import generations

SETTINGS = {"generation_steps": 2, "evaluate_every": 4, "validation_size": 0, "keep_checkpoints": 9}


def run(model_dir, steps, **settings):
    settings = {**SETTINGS, "pseudo_labeler": "crest", **settings}
    return run_train(*arguments(model_dir=model_dir, steps=steps, **settings))


def variables(model_dir, step):
    with np.load(model_dir / "checkpoints" / f"step_{step:08d}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("crest") / "run"
    assert run(model_dir, 5) == 0
    return model_dir


def test_every_generation_starts_with_more_labeled_images(finished):
    # A checkpoint at the end of every generation and after every four steps.
    steps = [int(path.stem[5:]) for path in sorted((finished / "checkpoints").iterdir())]
    assert steps == [2, 4, 5]
    for number in (1, 2):
        with np.load(finished / "generations" / f"generation_{number}.npz") as chosen:
            positions, labels = chosen["positions"], chosen["labels"]
        assert len(positions) == len(labels) > 0
        assert len(np.unique(positions)) == len(positions)
    assert not (finished / "generations" / "generation_3.npz").exists()


def test_an_interrupted_run_ends_as_an_uninterrupted_one(finished, tmp_path, capsys):
    assert run(tmp_path / "run", 3) == 0  # in the middle of the second generation
    chosen = tmp_path / "run" / "generations" / "generation_1.npz"
    content = chosen.read_bytes()
    chosen.write_bytes(b"PK")
    assert run(tmp_path / "run", 5) == 2
    assert "generation_1.npz, the images of generation 1, cannot be read" in capsys.readouterr().err
    chosen.write_bytes(content)

    assert run(tmp_path / "run", 5) == 0
    ours, theirs = variables(tmp_path / "run", 5), variables(finished, 5)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_memory_of_labeled_images_grows_with_the_generations(tmp_path, caplog):
    """CoSSL remembers a feature of every labeled image."""
    settings = {"balanced_head": "cossl", "cossl_start": 0, "cossl_warmup_steps": 0}
    for steps in (3, 5):  # in the middle of the second generation, and in the third
        assert run(tmp_path / "run", steps, **settings) == 0
    assert "cannot be read" not in caplog.text  # no earlier checkpoint was taken
    first, second = (variables(tmp_path / "run", step) for step in (2, 3))
    grown = [name for name in first if first[name].shape != second[name].shape]
    assert len(grown) == 1 and grown[0].startswith("memory/")


def test_progressive_alignment_trains(tmp_path):
    assert run(tmp_path / "run", 3, pseudo_labeler="crest_plus") == 0
    assert (tmp_path / "run" / "generations" / "generation_1.npz").exists()


def test_selected_images_are_added_to_the_labeled_images(tmp_path):
    pictures = np.arange(9 * 12, dtype=np.uint8).reshape(9, 2, 2, 3)
    loaded = data.from_arrays(pictures[:4], [0, 0, 0, 1], pictures[4:])
    probabilities = np.random.default_rng(0).dirichlet([1, 1], size=5)
    images = generations.PseudoLabeledImages(tmp_path)
    second = generations.Generation(1, length=2, steps=4)
    images.choose(second, {loaded.unlabeled: probabilities}.get, loaded, alpha=3.0)
    positions, labels = generations.select(probabilities, [3, 1])
    extended = images.added_to(loaded, second)
    np.testing.assert_array_equal(extended.labeled.images[4:], pictures[4:][positions])
    np.testing.assert_array_equal(extended.labeled.labels, [0, 0, 0, 1, *labels])
    assert extended.unlabeled is loaded.unlabeled
    assert images.added_to(loaded, generations.Generation(0, length=2, steps=4)) is loaded


def test_examples():
    assert doctest.testmod(generations).failed == 0
