"""Microbatches: the same step, except for what looks at a batch as a whole."""

import functools

import keras
import numpy as np
import pytest
from command import arguments, run_train
from dense_learner import COUNTS, SIZE, K, dense_learner

import daso_tf
from daso_tf.balance import ABC
from daso_tf.pseudo_labels import DASOPseudoLabeler

B, MU, STEPS = 4, 2, 3
STRONG = {"strong": daso_tf.augment.RandAugment(num_ops=0, cutout=2)}


def daso(**settings):
    return DASOPseudoLabeler(queue_size=3, distribution_period=2, **settings)


# Without semantic pseudo-labels: they depend on the queues, which every part extends.
CASES = {
    "fixmatch": lambda: {**STRONG, "pseudo_labeler": daso(), "threshold": 0.2},
    "mean_teacher": lambda: {"learner": daso_tf.MeanTeacher, "pseudo_labeler": daso()},
    "supervised": lambda: {"learner": daso_tf.Supervised},
}


def batch(step, labeled=B):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (labeled + MU * B, SIZE, SIZE, 3), dtype=np.uint8)
    truth = rng.integers(0, K, labeled + MU * B).astype(np.int32)
    return (images[:labeled], images[labeled:]), (truth[:labeled], truth[labeled:])


@functools.cache
def trained(case, microbatches, jit_compile=False):
    """Returns a learner after a few steps, and the logs of the last one."""
    model = dense_learner(**CASES[case](), microbatches=microbatches)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)
    model.compile(optimizer, jit_compile=jit_compile)
    for step in range(STEPS):
        logs = model.train_on_batch(*batch(step), return_dict=True)
    return model, logs


def assert_same(case, *ours, tolerance=1e-5):
    (one, logs), (other, other_logs) = trained(case, 1), trained(case, *ours)
    assert other_logs == pytest.approx(logs, rel=1e-4, abs=1e-6)
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=tolerance, atol=tolerance)
    for a, b in zip(one.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_two_parts_make_the_same_step(case):
    assert_same(case, 2)


def test_four_parts_make_the_same_step():
    assert_same("fixmatch", 4)


def test_parts_make_the_same_step_under_xla():
    assert_same("fixmatch", 2, True)


def test_a_step_of_parts_is_one_step():
    """Histogram, step and window count batches; the queues have received every labeled image."""
    model, _ = trained("fixmatch", 4)
    distribution = model.pseudo_labeler.distribution
    assert int(model.step) == STEPS
    assert np.sum(distribution.in_force) == 2 * MU * B
    assert np.sum(distribution.counted) == MU * B
    labels = np.concatenate([batch(step)[1][0] for step in range(STEPS)])
    pushed = model.pseudo_labeler.prototype_classifier.pushed
    np.testing.assert_array_equal(pushed, np.bincount(labels, minlength=K))


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        (daso_tf.MixMatch, {}),
        (daso_tf.ReMixMatch, {**STRONG, "balanced_head": ABC(COUNTS, total_steps=9)}),
        (daso_tf.USADTM, {**STRONG, "pretrain_steps": 0}),
    ],
)
def test_learners_that_look_at_a_whole_batch_train_on_parts(learner, settings):
    model = dense_learner(learner, **settings, microbatches=2)
    before = [np.array(weight) for weight in model.trainable_variables]
    logs = model.train_on_batch(*batch(0), return_dict=True)
    assert np.isfinite([float(value) for value in logs.values()]).all()
    assert all(
        (a != np.array(b)).any() for a, b in zip(before, model.trainable_variables, strict=True)
    )
    assigned = model.pseudo_label_statistics["final"].per_class()["assigned"]
    assert assigned.sum() == MU * B


def test_several_steps_of_parts_per_execution():
    one, two = (dense_learner(**CASES["fixmatch"](), microbatches=2) for _ in range(2))
    (labeled, unlabeled), (labels, _) = batch(0, labeled=MU * B)
    data = daso_tf.data.from_arrays(labeled, labels, unlabeled)
    for model, steps in ((one, 1), (two, 2)):
        model.compile(keras.optimizers.SGD(0.05), jit_compile=False, steps_per_execution=steps)
        batches = daso_tf.data.training_batches(data, batch_size=B, unlabeled_ratio=MU, seed=0)
        model.fit(batches, steps_per_epoch=4, verbose=0, shuffle=False)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


def test_microbatches_are_part_of_the_config():
    model = dense_learner(microbatches=2)
    assert type(model).from_config(model.get_config()).microbatches == 2


@pytest.mark.parametrize("labeled", [2, 3])
def test_batch_that_cannot_be_cut_is_refused(labeled):
    model = dense_learner(microbatches=4)
    with pytest.raises(ValueError, match=f"{labeled} images cannot be cut into 4 microbatches"):
        model.train_on_batch(*batch(0, labeled))


def test_number_of_parts_out_of_range_is_refused():
    with pytest.raises(ValueError, match="microbatches must be at least 1, not 0"):
        dense_learner(microbatches=0)


def test_command_refuses_parts_that_do_not_divide_the_batch(tmp_path, capsys):
    command = arguments(model_dir=tmp_path / "run", batch_size=12, microbatches=5)
    assert run_train(*command) == 2
    message = capsys.readouterr().err
    expected = "--microbatches=5 must divide --batch_size=12; allowed values: 1, 2, 3, 4, 6, 12."
    assert expected in message
    assert not (tmp_path / "run").exists()
