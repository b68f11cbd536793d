"""Every combination of DASO's paper: thirty steps on the digits."""

import functools
import json
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, built

from daso_tf import augment, data
from daso_tf.encoders.batch_normalization import BatchNormalization
from daso_tf.run.checkpoints import Checkpoints
from daso_tf.settings import build
from daso_tf.settings.combinations import BALANCES, PAPER

STEPS, HALF, BATCH, RATIO = 30, 15, 4, 2
CELLS = [(learner, column) for learner in PAPER for column in sorted(PAPER[learner])]


@functools.cache
def digits():
    heads = {"labeled_head": 6, "unlabeled_head": 12}
    gammas = {"labeled_imbalance": 3, "unlabeled_imbalance": 3}
    return data.load("digits", **heads, **gammas, resolution=8)


def small_encoder(name, resolution, *_, **__):
    image = keras.Input((resolution, resolution, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(image)
    features = keras.layers.GlobalAveragePooling2D()(BatchNormalization()(x))
    return keras.Model(image, features)


def made(learner, column):
    """Returns the learner that the command makes for a cell."""
    settings = {"learner": learner, "steps": STEPS, "ldam_reweight_after": HALF}
    if column == "crest_plus":  # it aligns the predictions itself
        settings["distribution_alignment"] = False
    asked = f"--pseudo_labeler={column}"
    if column in BALANCES:
        settings["pseudo_labeler"] = "linear"
        asked = BALANCES[column] + "=1" * ("=" not in BALANCES[column])
    keras.utils.set_random_seed(0)
    return built(digits(), *arguments(**settings), asked)


class Run(NamedTuple):
    """What a learner computed in thirty steps.

    Attributes:
        model: The learner.
        logs: Those of every step.
        truth: Classes of the unlabeled images of the last step.
        counts: The pseudo-labels of the last step by kind.
        states: All variables after step 15, after step 30, and after step 30 of the run that
            resumed from a checkpoint of step 15.
        saved: The file of the learner after the last of these.
    """

    model: keras.Model
    logs: list
    truth: np.ndarray
    counts: dict
    states: list
    saved: str


def train(model, first, last):
    settings = {"batch_size": BATCH, "unlabeled_ratio": RATIO, "seed": 0, "first_step": first}
    logs = []
    for images, labels in data.training_batches(
        digits(), steps=last - first, **settings, **model.batch_arguments
    ):
        model.reset_metrics()
        logs.append(model.train_on_batch(images, labels, return_dict=True))
    return [{name: float(value) for name, value in log.items()} for log in logs], labels[1].numpy()


def state(model):
    return [np.array(variable) for variable in (*model.weights, *model.optimizer.variables)]


@pytest.fixture(scope="module", params=CELLS, ids=lambda cell: " + ".join(cell))
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        # Augmentation takes longest to compile, and other files test it.
        patch.setattr(augment, "RandAugment", functools.partial(augment.RandAugment, 0))
        patch.setattr(build.encoders, "build", small_encoder)
        model = made(*request.param)
    checkpoints = Checkpoints(folder / "checkpoints")
    logs, _ = train(model, 0, HALF)
    checkpoints.save(model)
    states = [state(model)]
    more, truth = train(model, HALF, STEPS)
    counts = {kind: of.per_class() for kind, of in model.pseudo_label_statistics.items()}
    states.append(state(model))
    assert checkpoints.restore(model)
    train(model, HALF, STEPS)
    states.append(state(model))
    model.save(folder / "model.keras")
    return Run(model, logs + more, truth, counts, states, str(folder / "model.keras"))


def test_losses_are_finite_and_add_up(run):
    assert int(run.model.step) == len(run.logs) == STEPS
    for logs in run.logs:
        assert np.isfinite(list(logs.values())).all()
        parts = [logs[name] for name in logs if name.endswith("_loss")]
        assert logs["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_pseudo_labels_of_a_step_are_counted(run):
    for kind in {"linear", "final"} & {*run.counts}:
        assert run.counts[kind]["assigned"].sum() == RATIO * BATCH
        np.testing.assert_array_equal(
            run.counts[kind]["true"], np.bincount(run.truth, minlength=10)
        )
    assert bool(run.counts) == ("mask_rate" in run.logs[-1])


def test_resumed_run_ends_the_same(run):
    halfway, at_once, resumed = run.states
    assert any((a != b).any() for a, b in zip(halfway, at_once, strict=True))
    for a, b in zip(at_once, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_saved_and_exported_learner_is_the_same(run, tmp_path):
    again = keras.saving.load_model(run.saved)
    for a, b in zip(state(again), run.states[-1], strict=True):
        np.testing.assert_array_equal(a, b)
    configs = [learner.get_config() for learner in (again, run.model)]
    for config in configs:
        del config["encoder"]  # Keras numbers its inputs differently
    assert json.dumps(configs[0]) == json.dumps(configs[1])

    images = digits().test.images[:5]
    probabilities = run.model.predict(images, verbose=0)
    run.model.export(tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    answer = serve(images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(answer, probabilities, atol=1e-6)
