"""Thresholds against plain NumPy statements of their equations, and their place in a learner."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train
from dense_learner import K, assert_saved_and_resumed_exactly, dense_learner, step_inputs, train
from numpy_statements import log_softmax, softmax
from recordings import assert_close, recorded

import daso_tf
from daso_tf import thresholds
from daso_tf.learners.pseudo_label import PseudoLabelViews
from daso_tf.step.losses import consistency

IMAGES = 50


def batches(count, size=20):
    """Yields predictions of growing confidence for random images."""
    rng = np.random.default_rng(3)
    for step in range(count):
        target = rng.dirichlet(np.full(K, 0.9 / (1 + step)), size).astype(np.float32)
        yield target, rng.choice(IMAGES, size, replace=False)


def test_fixed():
    for target, _ in batches(3):
        mask = thresholds.FixedThreshold(0.8)(tf.constant(target)).weights
        np.testing.assert_array_equal(mask, target.max(axis=1) >= np.float32(0.8))


def test_flexmatch():
    threshold = thresholds.FlexMatchThreshold(IMAGES, confidence=0.8)
    learned = np.full(IMAGES, -1)
    masks = []
    for target, positions in batches(12):
        counts = np.array([(learned == k).sum() for k in range(-1, K)])
        status = counts[1:] / counts.max()
        least = 0.8 * status / (2 - status)
        labels, confidence = target.argmax(axis=1), target.max(axis=1)
        mask = threshold(tf.constant(target), positions=tf.constant(positions)).weights.numpy()
        np.testing.assert_array_equal(mask, confidence >= least[labels].astype(np.float32))
        sure = confidence >= np.float32(0.8)
        learned[positions[sure]] = labels[sure]
        masks.append(mask.mean())
    assert masks[0] == 1  # no class is learned yet, so all thresholds are 0
    assert min(masks) < 1


def test_freematch():
    threshold = thresholds.FreeMatchThreshold(momentum=0.7)
    mean_confidence, mean_target = 1 / K, np.full(K, 1 / K)
    for target, _ in batches(8):
        mean_confidence = 0.7 * mean_confidence + 0.3 * target.max(axis=1).mean()
        mean_target = 0.7 * mean_target + 0.3 * target.mean(axis=0)
        least = mean_target / mean_target.max() * mean_confidence
        mask = threshold(tf.constant(target)).weights
        np.testing.assert_allclose(threshold.class_thresholds(), least, rtol=1e-5)
        np.testing.assert_array_equal(mask, target.max(axis=1) >= least[target.argmax(axis=1)])


def fairness(strong, mask, mean_target, histogram):
    """The fairness loss, over the classes that at least one taught view is predicted as."""
    p = softmax(strong)[mask > 0]
    taken = np.bincount(p.argmax(axis=1), minlength=K) / len(p)
    there = taken > 0
    of_strong = p.mean(axis=0)[there] / taken[there]
    of_weak = mean_target / histogram
    return np.sum((of_weak / of_weak.sum())[there] * np.log(of_strong / of_strong.sum()))


def test_freematch_fairness_loss_and_its_gradient():
    rng = np.random.default_rng(5)
    threshold = thresholds.FreeMatchThreshold(momentum=0.7, fairness_weight=0.5)
    mean_target, histogram = np.full((2, K), 1 / K)
    for target, _ in batches(4):
        threshold(tf.constant(target))
        mean_target = 0.7 * mean_target + 0.3 * target.mean(axis=0)
        taken = np.bincount(target.argmax(axis=1), minlength=K) / len(target)
        histogram = 0.7 * histogram + 0.3 * taken
    compiled = tf.function(threshold.auxiliary_losses, jit_compile=True)
    for absent in (-9, 0):  # without and with views that are predicted as the last class
        strong = rng.normal(size=(8, K)) + np.array([0, 0, absent])
        mask = np.array([1, 1, 0, 1, 1, 1, 0, 1])
        logits = tf.constant(strong)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = threshold.auxiliary_losses(logits, tf.constant(mask))["fairness_loss"]
        expected = 0.5 * fairness(strong, mask, mean_target, histogram)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        under_xla = compiled(logits, tf.constant(mask))["fairness_loss"]
        assert float(under_xla) == pytest.approx(expected, rel=1e-5)
        gradient = tape.gradient(loss, logits).numpy()
        for index in np.ndindex(*strong.shape):
            nudge = np.zeros_like(strong)
            nudge[index] = 1e-5
            ahead, behind = (
                fairness(strong + sign * nudge, mask, mean_target, histogram) for sign in (1, -1)
            )
            assert gradient[index] == pytest.approx(0.5 * (ahead - behind) / 2e-5, abs=1e-6)


def test_freematch_fairness_loss_is_0_if_nothing_is_taught():
    threshold = thresholds.FreeMatchThreshold()
    threshold.build((None, K))
    logits = tf.zeros((2, K))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = threshold.auxiliary_losses(logits, tf.zeros(2))["fairness_loss"]
    assert float(loss) == 0
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_flexmatch_writes_only_confident_rows_of_an_image():
    """An image is in a batch twice; only one of its views is confident, first or last."""
    for rows in ([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3]], [[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]):
        threshold = thresholds.FlexMatchThreshold(IMAGES, confidence=0.8)
        threshold(tf.constant([[0.1, 0.1, 0.8]]), positions=tf.constant([7]))
        assert threshold.labels.numpy()[7] == 2
        threshold(tf.constant(rows), positions=tf.constant([7, 7]))
        assert threshold.labels.numpy()[7] == 0
        assert (np.delete(threshold.labels.numpy(), 7) == K).all()


@pytest.mark.parametrize("alignment", [True, False])
def test_softmatch(alignment):
    weight = thresholds.SoftMatchWeight(momentum=0.7, deviations=2, alignment=alignment)
    mean, variance, mean_prediction = 1 / K, 1.0, None
    for target, _ in batches(8):
        of_batch = target.mean(axis=0, dtype=np.float64)
        first = mean_prediction is None
        mean_prediction = of_batch if first else 0.7 * mean_prediction + 0.3 * of_batch
        aligned = target * (1 / K + 1e-6) / (mean_prediction + 1e-6)
        aligned /= aligned.sum(axis=1, keepdims=True)
        confidence = (aligned if alignment else target).max(axis=1)
        mean = 0.7 * mean + 0.3 * confidence.mean()
        variance = 0.7 * variance + 0.3 * confidence.var(ddof=1)
        expected = np.where(
            confidence >= mean, 1, np.exp(-((confidence - mean) ** 2) / (2 * variance / 4))
        )
        selection = weight(tf.constant(target))
        np.testing.assert_allclose(selection.weights, expected, rtol=1e-4)
        assert selection.labels is None  # alignment does not change what is taught


def test_softmatch_of_version_0_1_is_loaded_without_alignment():
    config = thresholds.SoftMatchWeight().get_config()
    assert config.pop("alignment") is True
    assert not thresholds.SoftMatchWeight.from_config(config).alignment


EPOCH = 4


def test_adsh():
    threshold = thresholds.ADSHThreshold([3, 9, 1], IMAGES, confidence=0.8, epoch_steps=EPOCH)
    tau = np.float32(0.8)
    remembered, least, changes, relabeled = {}, np.full(K, tau), [], 0
    for step, (target, positions) in enumerate(batches(24)):
        target = target**0.5  # less confident, so that fewer images of some classes reach tau
        target /= target.sum(axis=1, keepdims=True)
        if step % EPOCH == 0 and step >= 2 * EPOCH:
            of_class = [
                sorted((c for c, label in remembered.values() if label == k), reverse=True)
                for k in range(K)
            ]
            sure = sum(c >= tau for c in of_class[1])
            for k in (0, 2):
                if not sure:
                    least[k] = tau
                elif of_class[k]:
                    place = max(round(len(of_class[k]) * sure / len(of_class[1]) - 1), 0)
                    least[k] = min(tau, of_class[k][place])
            changes.append((least < tau).any())
        labels = (target / least).argmax(axis=1)
        selection = threshold(
            tf.constant(target), positions=tf.constant(positions), step=tf.constant(step)
        )
        np.testing.assert_array_equal(threshold.class_thresholds(), least)
        np.testing.assert_array_equal(selection.labels, labels)
        probabilities = target[np.arange(len(target)), labels]
        np.testing.assert_array_equal(selection.weights, probabilities >= least[labels])
        confidence, predicted = target.max(axis=1), target.argmax(axis=1)
        relabeled += (labels != predicted).sum()
        remembered.update(zip(positions, zip(confidence, predicted, strict=True), strict=True))
    assert any(changes)  # thresholds were lowered
    assert relabeled  # and changed labels


def test_adsh_class_without_images_keeps_its_threshold():
    threshold = thresholds.ADSHThreshold([9, 3, 1], 4, confidence=0.8, epoch_steps=1)
    sure, unsure = [0.9, 0.1, 0.0], [0.4, 0.6, 0.0]

    def thresholds_after(step, *rows):
        threshold(tf.constant(rows), positions=tf.range(len(rows)), step=tf.constant(step))
        return threshold.class_thresholds().numpy().tolist()

    tau, lower = np.float32(0.8), np.float32(0.6)
    assert thresholds_after(0, sure, sure, unsure, unsure) == [tau] * 3
    assert thresholds_after(2, sure, sure, sure, sure) == [tau, lower, tau]
    assert thresholds_after(3, unsure, unsure, unsure, unsure) == [tau, lower, tau]
    # No image of the head class is confident any more.
    assert thresholds_after(4, sure, sure, sure, sure) == [tau] * 3


def effective_weights(counts):
    """The weights of the paper, scaled to sum to the number of classes."""
    images = np.sum(counts) / len(counts)
    beta = (images - 1) / images
    weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    return weights * len(counts) / weights.sum()


def test_saw():
    # Half of the images are never seen. They do not count.
    weight = thresholds.SAWWeight(2 * IMAGES, 0.8, labeled_counts=[3, 9, 1], epoch_steps=EPOCH)
    remembered, weights = np.full(IMAGES, -1), np.ones(K)
    for step, (target, positions) in enumerate(batches(12)):
        target *= np.array([9, 1, 0.1], np.float32)  # imbalanced
        target /= target.sum(axis=1, keepdims=True)
        if step and step % EPOCH == 0:
            weights = effective_weights([(remembered == k).sum() for k in range(K)])
        labels = target.argmax(axis=1)
        ours = weight(
            tf.constant(target), tf.constant([2, 0]), tf.constant(positions), step=tf.constant(step)
        )
        np.testing.assert_allclose(weight.class_weights(), weights, rtol=1e-5)
        expected = (target.max(axis=1) >= np.float32(0.8)) * weights[labels]
        np.testing.assert_allclose(ours.weights, expected, rtol=1e-5)
        of_labeled = effective_weights([3, 9, 1])[[2, 0]]
        np.testing.assert_allclose(ours.labeled_weights, of_labeled, rtol=1e-5)
        remembered[positions] = labels
    assert weights.max() > 1.5 * weights.min()


def test_saw_without_labeled_counts_leaves_the_labeled_images_alone():
    weight = thresholds.SAWWeight(IMAGES, 0.8)
    target = tf.constant([[0.9, 0.1, 0.0]])
    selection = weight(target, tf.constant([2]), tf.constant([0]), step=tf.constant(0))
    assert selection.labeled_weights is None


@pytest.mark.parametrize(
    "layer",
    [
        thresholds.ADSHThreshold([9, 3, 1], IMAGES, 0.7, epoch_steps=2),
        thresholds.SAWWeight(IMAGES, 0.7, epoch_steps=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_values_change_once_per_epoch(layer):
    """Also if a step has several calls, or the first step of an epoch is missed."""
    layer.build((None, K))
    first, seen = layer.first_epoch * 2, []
    steps = [0, 0, 1, 1, *range(2, first), first, first, first + 1, first + 3, first + 3]
    for step, (target, positions) in zip(steps, batches(len(steps)), strict=True):
        layer(tf.constant(target), None, tf.constant(positions), step=tf.constant(step))
        seen.append(layer.class_values.numpy())
    before, at_first = seen[: steps.index(first)], seen[steps.index(first)]
    assert all((values == layer.first_value).all() for values in before)
    assert (at_first != layer.first_value).any()
    for values in seen[steps.index(first) : -2]:
        np.testing.assert_array_equal(values, at_first)
    assert (seen[-2] != at_first).any()
    np.testing.assert_array_equal(seen[-2], seen[-1])


@pytest.mark.parametrize("cls", [thresholds.ADSHThreshold, thresholds.SAWWeight])
def test_layer_of_version_0_1_computes_its_values_from_what_it_remembers(cls):
    counts = {"labeled_counts": [9, 3, 1]} if cls is thresholds.ADSHThreshold else {}
    ours, theirs = (cls(num_images=IMAGES, confidence=0.7, **counts) for _ in range(2))
    for layer in (ours, theirs):
        layer.build((None, K))
    (target, positions), (later, later_positions) = batches(2)
    ours(tf.constant(target), None, tf.constant(positions), step=tf.constant(0))
    of_old = [v.numpy() for v in ours.weights if v is not ours.class_values and v is not ours.epoch]
    theirs.load_own_variables({str(index): value for index, value in enumerate(of_old)})
    for layer in (ours, theirs):
        layer(tf.constant(later), None, tf.constant(later_positions), step=tf.constant(1600))
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (theirs.class_values.numpy() != theirs.first_value).any()


def in_single(logits):
    return tf.constant(softmax(logits), tf.float32)


@pytest.mark.parametrize("name", ["usual", "tail_surer", "tail_unsure"])
def test_adsh_as_the_authors(name):
    record = recorded(f"thresholds/adsh_{name}.npz")
    pool, batch = in_single(record["pool_logits"]), in_single(record["batch_logits"])
    threshold = thresholds.ADSHThreshold(
        record["labeled_counts"].tolist(), len(pool), float(record["threshold"]), epoch_steps=1
    )
    threshold(pool, positions=tf.range(len(pool)), step=tf.constant(0))
    selection = threshold(batch, positions=tf.range(len(batch)), step=tf.constant(2))
    assert_close(threshold.class_thresholds(), record["thresholds_authors"])
    np.testing.assert_array_equal(selection.weights, record["mask_authors"])
    np.testing.assert_array_equal(selection.labels, record["label_authors"])
    strong = tf.constant(record["strong_logits"], tf.float32)
    loss = consistency(selection.labels, selection.weights, strong)
    assert float(loss) == pytest.approx(float(record["loss_authors"]), rel=1e-4)


def test_adsh_teaches_by_tau_where_the_head_class_is_never_sure():
    """The authors' code then lowers the thresholds of all other classes."""
    record = recorded("thresholds/adsh_head_never_sure.npz")
    pool = in_single(record["pool_logits"])
    threshold = thresholds.ADSHThreshold(
        record["labeled_counts"].tolist(), len(pool), float(record["threshold"]), epoch_steps=1
    )
    threshold(pool, positions=tf.range(len(pool)), step=tf.constant(0))
    threshold(pool, positions=tf.range(len(pool)), step=tf.constant(2))
    assert (threshold.class_thresholds().numpy() == np.float32(record["threshold"])).all()


def test_saw_as_the_authors():
    record = recorded("thresholds/saw.npz")
    for counts, expected in zip(record["counts"], record["weights_authors"], strict=True):
        weight = thresholds.SAWWeight(int(record["num_images"]), epoch_steps=1)
        weight.build((None, len(counts)))
        labels = np.repeat(np.arange(len(counts)), counts)
        positions = tf.range(len(labels))
        weight(tf.one_hot(labels, len(counts)), positions=positions, step=tf.constant(0))
        weight(tf.one_hot(labels, len(counts)), positions=positions, step=tf.constant(1))
        # The authors' code divides by 0 where nothing was seen.
        assert_close(weight.class_weights(), np.nan_to_num(expected, nan=1.0))


@pytest.mark.parametrize("name", ["m9_uniform", "m999_uniform", "m9", "m999"])
def test_softmatch_as_usb(name):
    record = recorded(f"thresholds/softmatch_usb_{name}.npz")
    weight = thresholds.SoftMatchWeight(
        float(record["momentum"]), float(record["deviations"]), alignment="uniform" in name
    )
    for step, logits in enumerate(record["weak"]):
        target = in_single(logits)
        selection = weight(target)
        assert_close(selection.weights, record["mask"][step])
        labels = np.argmax(target, axis=1)
        np.testing.assert_array_equal(labels, record["pseudo_label"][step])
        strong = tf.constant(record["strong"][step], tf.float32)
        loss = consistency(labels, selection.weights, strong)
        assert float(loss) == pytest.approx(record["consistency_loss"][step], rel=1e-4)
        assert_close(weight.mean, record["mean"][step])
        assert_close(weight.variance, record["variance"][step])
        if weight.alignment:
            assert_close(weight.mean_prediction, record["mean_prediction"][step])


def test_softmatch_without_alignment_as_torchssl():
    record = recorded("thresholds/softmatch_torchssl_m9.npz")
    weight = thresholds.SoftMatchWeight(momentum=0.9, alignment=False)
    for logits, expected in zip(record["weak"], record["weights_unaligned"], strict=True):
        assert_close(weight(in_single(logits)).weights, expected)


def test_flexmatch_as_usb():
    record = recorded("thresholds/flexmatch_usb.npz")
    threshold = thresholds.FlexMatchThreshold(int(record["num_images"]), float(record["threshold"]))
    classes = record["weak"].shape[-1]
    for step, logits in enumerate(record["weak"]):
        positions = tf.constant(record["positions"][step])
        weights = threshold(in_single(logits), positions=positions).weights
        np.testing.assert_array_equal(weights, record["mask"][step])
        counts = threshold.counts().numpy()
        assert_close(counts[:-1] / counts.max(), record["status_after"][step])
    labels = threshold.labels.numpy()
    remembered = np.where(labels == classes, -1, labels)
    np.testing.assert_array_equal(remembered, record["remembered_after_last"])


ALL = [
    thresholds.FixedThreshold(0.7),
    thresholds.FlexMatchThreshold(IMAGES, 0.7),
    thresholds.FreeMatchThreshold(0.9),
    thresholds.SoftMatchWeight(0.9, 1.5),
    thresholds.SoftMatchWeight(0.9, 1.5, alignment=False),
    thresholds.ADSHThreshold([3, 9, 1], IMAGES, 0.7, epoch_steps=1),
    thresholds.SAWWeight(IMAGES, 0.7, [3, 9, 1], epoch_steps=1),
]


@pytest.mark.parametrize("threshold", ALL, ids=lambda layer: type(layer).__name__)
def test_config_round_trip_and_xla_give_the_same_weights(threshold):
    config = keras.saving.serialize_keras_object(threshold)
    ours, theirs = (keras.saving.deserialize_keras_object(config) for _ in range(2))
    for layer in (ours, theirs):
        layer.build((None, K))
    compiled = tf.function(lambda *args: theirs(*args), jit_compile=True)
    labels = tf.constant([0, 2])
    for step, (target, positions) in enumerate(batches(4)):
        inputs = tf.constant(target), labels, tf.constant(positions, tf.int64), tf.constant(step)
        selections = [layer(*inputs) for layer in (ours, compiled)]
        for a, b in zip(*selections, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-5)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: thresholds.FixedThreshold(1.1), r"confidence must be in \[0, 1\], not 1.1"),
        (lambda: thresholds.FlexMatchThreshold(0), "num_images must be at least 1, not 0"),
        (lambda: thresholds.FlexMatchThreshold(2.5), "num_images must be a whole number of at"),
        (lambda: thresholds.FlexMatchThreshold(float("nan")), "num_images must .* 1, not nan"),
        (lambda: thresholds.FreeMatchThreshold(0.9, -1), "fairness_weight must be at least 0"),
        (lambda: thresholds.FreeMatchThreshold(1.0), r"momentum must be in \[0, 1\), not 1.0"),
        (lambda: thresholds.SoftMatchWeight(0.9, 0.0), "deviations must be above 0, not 0.0"),
        (lambda: thresholds.SoftMatchWeight(0.9, np.inf), "must be above 0 and finite, not inf"),
        (lambda: thresholds.SAWWeight(0), "num_images must be at least 1, not 0"),
        (lambda: thresholds.ADSHThreshold([2, 1], 0), "num_images must be at least 1, not 0"),
        (lambda: thresholds.ADSHThreshold([2, 0], 9), "at least 1 for every class, not"),
        (lambda: thresholds.SAWWeight(9)(tf.ones((2, K)) / K), "SAWWeight needs the positions"),
        (
            lambda: thresholds.SAWWeight(9)(tf.ones((2, K)) / K, positions=tf.range(2)),
            "SAWWeight changes once per epoch: give step=",
        ),
        (
            lambda: thresholds.SAWWeight(9, labeled_counts=[2, 1]).build((None, 3)),
            "one number for each of the 3 classes, not 2",
        ),
        (lambda: thresholds.SAWWeight(9, epoch_steps=0), "epoch_steps must be at least 1, not 0"),
        (
            lambda: thresholds.ADSHThreshold([2, 1], 9).build((None, 3)),
            "one number for each of the 3 classes, not 2",
        ),
    ],
)
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "name", ["threshold", "flexmatch", "freematch", "softmatch", "adsh", "saw"]
)
def test_examples(name):
    module = importlib.import_module(f"daso_tf.thresholds.{name}")
    outcome = doctest.testmod(module, extraglobs={"tf": tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("threshold", ALL[1:], ids=lambda layer: type(layer).__name__)
def test_fixmatch_saves_it_and_resumes_exactly(threshold, tmp_path):
    config = keras.saving.serialize_keras_object(threshold)
    copy = keras.saving.deserialize_keras_object(config)
    model = dense_learner(threshold=copy)
    before = [np.array(weight) for weight in copy.weights]
    assert_saved_and_resumed_exactly(model, tmp_path / "model.keras")
    after = [np.array(weight) for weight in copy.weights]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("old", [0.6, thresholds.SoftMatchWeight(0.9, 1.5)])
@pytest.mark.parametrize("learner", [daso_tf.FixMatch, daso_tf.DASO, daso_tf.PseudoLabel])
def test_the_old_name_of_the_argument_still_works(learner, old):
    """Until version 0.1 it was `confidence_threshold`, in calls and in saved configs."""
    model = dense_learner(learner, confidence_threshold=old)
    config = model.get_config()
    expected = config.pop("threshold")
    assert model.threshold.confidence == 0.6 if old == 0.6 else model.threshold is old
    again = learner.from_config({**config, "confidence_threshold": expected})
    assert again.get_config()["threshold"] == expected
    with pytest.raises(ValueError, match="confidence_threshold is the old name of threshold"):
        dense_learner(learner, threshold=0.7, confidence_threshold=old)


class Chooses(thresholds.Threshold):
    """Teaches class 2, weights the labeled images, and notes the step."""

    steps = ()

    def call(self, target, labels=None, positions=None, step=None):
        self.steps = (*self.steps, int(step))
        weights = tf.linspace(0.0, 1.0, len(target))
        chosen = tf.fill([len(target)], tf.constant(2, tf.int64))
        return thresholds.Selection(weights, chosen, tf.cast(labels + 1, tf.float32))


@pytest.mark.parametrize("learner", [daso_tf.FixMatch, daso_tf.PseudoLabel])
def test_learner_teaches_what_a_threshold_selects(learner):
    model = dense_learner(learner, threshold=Chooses(), first_step=5)
    views, labels, _ = step_inputs(0)
    if learner is daso_tf.PseudoLabel:
        views = PseudoLabelViews(views.labeled, views.strong)
    outputs = [output.logits.numpy().astype(np.float64) for output in model.forward(*views)]
    labeled, taught = outputs[0], outputs[-1]
    outcome = model.compute_losses(views, labels)
    expected = -np.mean(np.linspace(0, 1, len(taught)) * log_softmax(taught)[:, 2])
    assert float(outcome.losses["consistency_loss"]) == pytest.approx(expected, rel=1e-5)
    each = -log_softmax(labeled)[np.arange(len(labels)), labels]
    expected = np.mean((labels.numpy() + 1) * each)
    assert float(outcome.losses["supervised_loss"]) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(outcome.pseudo_labels.final, np.full(len(taught), 2))
    # The steps of a learner that continues after an earlier generation count from its own start.
    model.step.assign(7)
    model.compute_losses(views, labels)
    assert model.threshold.steps == (0, 2)


def test_fixmatch_minimizes_the_loss_of_a_threshold():
    with_it, without = (
        dense_learner(threshold=thresholds.FreeMatchThreshold(0.5, weight)) for weight in (0.5, 0.0)
    )
    losses = train(with_it, 0, 1).losses
    assert set(losses) == {"supervised_loss", "consistency_loss", "fairness_loss"}
    assert "fairness_loss" in {metric.name for metric in with_it.metrics}
    assert float(losses["fairness_loss"]) < 0
    train(without, 0, 1)
    assert any(
        (np.array(a) != np.array(b)).any()
        for a, b in zip(with_it.network_weights, without.network_weights, strict=True)
    )


def test_the_command_provides_positions(tmp_path):
    run = arguments(threshold="flexmatch", model_dir=tmp_path / "run", steps=2, pretrain_steps=1)
    assert run_train(*run) == 0


def test_learners_without_a_threshold_refuse_it():
    with pytest.raises(ValueError, match="FixedThreshold does not go with MixMatch: it"):
        dense_learner(daso_tf.MixMatch, threshold=0.9)


def test_the_command_refuses_it_for_other_learners(tmp_path, capsys):
    run = arguments(threshold="softmatch", learner="mixmatch", model_dir=tmp_path / "run")
    assert run_train(*run) == 2
    assert "--threshold=softmatch does not go with --learner=mixmatch" in capsys.readouterr().err
