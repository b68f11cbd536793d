"""CoSSL: the balanced classifier's loss, its pseudo-labels and its place in a learner."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS
from dense_learner import (
    COUNTS,
    SIZE,
    D,
    K,
    assert_compiles_to_the_same,
    assert_saved_and_resumed_exactly,
    dense_learner,
    step_inputs,
    train,
)
from numpy_statements import log_softmax, softmax
from recordings import assert_close, recorded

import daso_tf
from daso_tf.balance import CoSSL, cossl
from daso_tf.balance.balanced_head import AveragedFeatures
from daso_tf.pseudo_labels import AlignedPseudoLabeler

SHARE = 0.4
RATES = 1 - np.array(COUNTS) / max(COUNTS)


def averaged_features(counts, draws):
    """Features of a step whose values say where they come from: class and place, or partner."""
    size = max(*counts, 1)
    remembered = np.arange(K)[:, None] * 100.0 + np.arange(size)[None, :]
    remembered[np.arange(size)[None, :] >= np.array(counts)[:, None]] = np.nan  # never to be drawn
    return AveragedFeatures(
        labeled=tf.constant([[-1.0], [-2.0]]),
        weak=tf.fill([3, 1], np.nan),
        strong=tf.constant([[-3.0], [-4.0], [-5.0]]),
        remembered=tf.constant(remembered[:, :, None], tf.float32),
        counts=tf.constant(counts, tf.int64),
        draws=tf.constant(draws, tf.float32),
    )


def uniform(count, columns):
    return daso_tf.platform.draws.uniform(
        [3, 4], daso_tf.platform.draws.BALANCED_CHOICE, count, columns
    )


@pytest.mark.parametrize("counts", [[2, 4, 1], [3, 0, 5], [0, 0, 1]])
def test_draws_are_those_of_numpy(counts):
    draws = uniform(200, 3).numpy()
    features, classes, partners = CoSSL(COUNTS, 0).draw(averaged_features(counts, draws))
    present = np.flatnonzero(counts)
    expected = present[np.floor(draws[:, 0] * len(present)).astype(int)]
    np.testing.assert_array_equal(classes, expected)
    places = np.floor(draws[:, 1] * np.array(counts)[expected]).astype(int)
    np.testing.assert_array_equal(features[:, 0], expected * 100 + places)
    np.testing.assert_array_equal(partners[:, 0], -1 - np.floor(draws[:, 2] * 5))


def test_classes_places_and_partners_are_drawn_equally_often():
    counts = [2, 4, 1]
    head = CoSSL(COUNTS, 0)
    features, _, partners = head.draw(averaged_features(counts, uniform(40_000, 3)))
    for k, count in enumerate(counts):
        for place in range(count):
            share = np.mean(features.numpy() == 100 * k + place)
            assert share == pytest.approx(1 / K / count, abs=0.01)
    for partner in range(-5, 0):
        assert np.mean(partners.numpy() == partner) == pytest.approx(1 / 5, abs=0.01)


def test_shares_are_uniform_and_blend_rates_are_those_of_the_classes():
    """With features of 1 and partners of 0, the blended feature is the share."""
    count = 30_000
    labels = np.arange(count) % K
    blended = CoSSL(COUNTS, 10, SHARE).blend(
        tf.ones((count, 1)), labels, tf.zeros((count, 1)), uniform(count, 1)[:, 0]
    )
    shares = blended.numpy()[:, 0]
    assert (shares[labels == 0] == 1).all()
    for k in (1, 2):
        of_class = shares[labels == k]
        of_class = of_class[of_class < 1]
        assert len(of_class) / (count / K) == pytest.approx(RATES[k], abs=0.02)
        quartiles = np.quantile(of_class, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(
            quartiles, SHARE + (1 - SHARE) * np.array([1, 2, 3]) / 4, atol=0.02
        )


def plain_loss(features, labels, partners, draws, kernel):
    total = 0
    for feature, label, partner, draw in zip(features, labels, partners, draws, strict=True):
        if draw < RATES[label]:
            share = 1 - (1 - SHARE) * draw / RATES[label]
            assert SHARE <= share <= 1
            feature = share * feature + (1 - share) * partner
        total -= log_softmax(feature @ kernel)[label]
    return total / len(labels)


def test_loss_and_its_gradient():
    rng = np.random.default_rng(0)
    remembered, labeled = rng.normal(size=(K, 4, D)), rng.normal(size=(6, D))
    strong, kernel = rng.normal(size=(8, D)), rng.normal(size=(D, K))
    draws, choices = rng.uniform(size=14), rng.uniform(size=(6, 3))
    averaged = AveragedFeatures(
        *(tf.constant(values, tf.float32) for values in (labeled, strong + 1, strong, remembered)),
        counts=tf.constant([4, 2, 1], tf.int64),
        draws=tf.constant(choices, tf.float32),
    )
    classes = np.floor(choices[:, 0] * K).astype(int)
    places = np.floor(choices[:, 1] * np.array([4, 2, 1])[classes]).astype(int)
    partners = np.concatenate([labeled, strong])[np.floor(choices[:, 2] * 14).astype(int)]
    drawn = remembered[classes, places]
    assert (draws[:6] < RATES[classes]).any() and not (draws[:6] < RATES[classes]).all()

    weights = tf.constant(kernel, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = CoSSL(COUNTS, 10, SHARE).loss(
            lambda views: views @ weights,
            None,
            None,
            tf.constant([0] * 6),  # classes are drawn, whatever the labels of the step
            tf.constant(draws, tf.float32),
            tf.constant(0),
            averaged,
        )
    problem = drawn, classes, partners, draws[:6]
    assert float(loss) == pytest.approx(plain_loss(*problem, kernel), rel=1e-5)
    gradient = tape.gradient(loss, weights)
    for index in np.ndindex(*kernel.shape):
        nudge = np.zeros_like(kernel)
        nudge[index] = 1e-6
        ahead, behind = (plain_loss(*problem, kernel + sign * nudge) for sign in (1, -1))
        assert float(gradient[index]) == pytest.approx((ahead - behind) / 2e-6, abs=1e-5)


def test_blending_as_the_published_implementation():
    record = recorded("thresholds/cossl.npz")
    head = CoSSL(record["labeled_counts"].tolist(), 0, float(record["least_share"]))
    np.testing.assert_allclose(head.blend_rates, record["blend_rates"], atol=1e-12)
    kernel = tf.constant(record["classifier"])
    for step, labels in enumerate(record["labels"]):
        inputs = (
            tf.constant(record["labeled"][step], tf.float32),
            tf.constant(labels),
            tf.constant(record["strong"][step][: len(labels)], tf.float32),
            tf.constant(record["draws"][step]),
        )
        assert_close(head.blend(*inputs), record["blended"][step])
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = head.loss_of_blended(lambda features: features @ kernel, *inputs)
        assert float(loss) == pytest.approx(record["loss_each_image_alike"][step], rel=2e-5)
        gradient = tape.gradient(loss, kernel)
        assert_close(gradient, record["grad_classifier_each_image_alike"][step])


def normalizing_learner(learner=daso_tf.FixMatch, **arguments):
    """A learner with BatchNorm, whose averaged network and inference mode make a difference."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.Dense(D)(keras.layers.Flatten()(image))
    features = keras.layers.BatchNormalization(momentum=0.7)(features)
    model = learner(keras.Model(image, features), K, **{**STATISTICS, **arguments})
    model.compile(keras.optimizers.SGD(0.05), jit_compile=False)
    return model


def in_numpy(encoder, images):
    """What an encoder of `normalizing_learner` computes in inference mode."""
    kernel, bias, gamma, beta, mean, variance = map(np.float64, encoder.get_weights())
    x = np.reshape(images, (len(images), -1)).astype(np.float64) @ kernel + bias
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def strong_labeled(step, batch=6):
    rng = np.random.default_rng(100 + step)
    return tf.constant(rng.normal(size=(batch, SIZE, SIZE, 3)), tf.float32)


def test_features_are_those_of_the_averaged_network_in_inference_mode():
    """The latest ones of each class are remembered, as many as it has labeled images."""
    model = normalizing_learner(balanced_head=CoSSL(COUNTS, teach_after=0))
    rng = np.random.default_rng(0)
    queues = [[] for _ in range(K)]
    for step in range(5):
        averages = model.ema_encoder.get_weights()
        model.ema_encoder.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in averages])
        views, labels, _ = step_inputs(step)
        images = strong_labeled(step)
        averaged = model.averaged_features(
            views.weak, views.strong, images, labels, tf.constant(step)
        )
        of_labeled = in_numpy(model.ema_encoder, images)
        np.testing.assert_allclose(averaged.labeled, of_labeled, atol=1e-4)
        for ours, view in ((averaged.weak, views.weak), (averaged.strong, views.strong)):
            np.testing.assert_allclose(ours, in_numpy(model.ema_encoder, view), atol=1e-4)
        for label, feature in zip(labels.numpy(), of_labeled, strict=True):
            queues[label] = [*queues[label], feature][-COUNTS[label] :]
        np.testing.assert_array_equal(averaged.counts, [len(queue) for queue in queues])
        for ours, queue in zip(averaged.remembered, queues, strict=True):
            ours = sorted(map(tuple, ours[: len(queue)].numpy()))
            np.testing.assert_allclose(ours, sorted(map(tuple, queue)), atol=1e-4)
    assert [len(queue) for queue in queues] == COUNTS


def test_head_makes_the_pseudo_labels_from_teach_after_on():
    model = normalizing_learner(balanced_head=CoSSL(COUNTS, teach_after=2))
    for step in range(4):
        views, labels, _ = step_inputs(step)
        if step < 2:  # the learner's own classifier and features, as without a head
            _, weak, _ = model.forward(*views)
            expected = softmax(weak.logits.numpy().astype(np.float64))
        else:
            kernel, bias = map(np.float64, model.balanced_classifier.get_weights())
            expected = softmax(in_numpy(model.ema_encoder, views.weak) @ kernel + bias)
        outcome = model.train_on_views(views, labels, None, strong_labeled(step))
        np.testing.assert_allclose(outcome.pseudo_labels.target, expected, rtol=1e-3)
        assert set(outcome.losses) == {"supervised_loss", "consistency_loss", "cossl_loss"}


def test_head_learns_from_the_warm_up_on():
    """Before, its loss is 0 and nothing is remembered; only weight decay moves it."""
    decay, rate = 0.1, 0.05
    head = CoSSL(COUNTS, teach_after=4, warmup_steps=2)
    model = normalizing_learner(balanced_head=head, weight_decay=decay, ema_decay=0.5)
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    for step in range(5):
        kernel = np.float64(model.balanced_classifier.get_weights()[0])
        # Until the warm-up is over, the first classifier answers.
        features = in_numpy(model.ema_encoder, model.as_input(tf.constant(images)))
        answering = model.ema_classifier if step < 4 else model.ema_balanced_classifier
        weights, offset = map(np.float64, answering.get_weights())
        expected = softmax(features @ weights + offset)
        np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-3)

        loss = model.train_on_views(*step_inputs(step)[:2], None, strong_labeled(step)).losses
        after = model.balanced_classifier.get_weights()[0]
        decayed = kernel * (1 - rate * decay)
        if step < 2:
            assert float(loss["cossl_loss"]) == 0
            assert not model.balanced_memory.pushed.numpy().any()
            np.testing.assert_allclose(after, decayed, rtol=1e-5)
        else:
            assert float(loss["cossl_loss"]) > 0
            assert model.balanced_memory.pushed.numpy().sum() == 6 * (step - 1)
            assert np.abs(after - decayed).max() > 1e-4


def test_head_does_not_train_the_encoder():
    model = normalizing_learner(balanced_head=CoSSL(COUNTS, teach_after=0))
    views, labels, _ = step_inputs(0)
    encoder = [*model.encoder.trainable_weights, *model.ema_encoder.trainable_weights]
    with tf.GradientTape(persistent=True) as tape:
        outcome = model.compute_losses(views, labels, strong_labeled=strong_labeled(0))
        loss = outcome.losses["cossl_loss"]
    assert tape.gradient(loss, encoder) == [None] * len(encoder)
    kernel, _ = tape.gradient(loss, model.balanced_classifier.trainable_weights)
    assert np.abs(kernel).max() > 0


def test_strong_labeled_views_leave_the_other_views_as_they_are():
    with_it, without = (dense_learner(balanced_head=head) for head in (CoSSL(COUNTS, 0), None))
    images = np.random.default_rng(0).integers(0, 256, (18, SIZE, SIZE, 3), dtype=np.uint8)
    seed = tf.constant([0, 3])
    ours, theirs = (
        model.make_views(tf.constant(images[:6]), tf.constant(images[6:]), seed)
        for model in (with_it, without)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    strong = with_it.make_strong_labeled_views(tf.constant(images[:6]), seed)
    assert strong.shape == ours.labeled.shape
    assert (strong.numpy() != ours.labeled.numpy()).any()


class Black(keras.layers.Layer):
    """Makes views that are black."""

    def call(self, images, seed):
        return tf.zeros_like(images)


@pytest.mark.parametrize("learner", [daso_tf.FixMatch, daso_tf.ReMixMatch])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_head_learns_from_strong_views_of_the_labeled_images(learner, microbatches):
    head = CoSSL(COUNTS, teach_after=0)
    model = dense_learner(learner, balanced_head=head, strong=Black(), microbatches=microbatches)
    images = np.random.default_rng(0).integers(0, 256, (18, SIZE, SIZE, 3), dtype=np.uint8)
    feature = model.ema_encoder(model.as_input(tf.zeros((1, SIZE, SIZE, 3), tf.uint8)))
    model.train_on_batch((images[:6], images[6:]), np.zeros(6, np.int32))
    memory = model.balanced_memory
    np.testing.assert_array_equal(memory.pushed, [6, 0, 0])
    np.testing.assert_allclose(memory.features[0, :6], np.repeat(feature, 6, axis=0), rtol=1e-5)


def test_head_predicts_instead_of_the_classifier():
    model = dense_learner(balanced_head=CoSSL(COUNTS, teach_after=2))
    train(model, 0, 2)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    features = model.ema_encoder(model.as_input(tf.constant(images)))
    expected = tf.nn.softmax(model.ema_balanced_classifier(features))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("labeler", [None, AlignedPseudoLabeler(COUNTS)])
def test_saved_and_resumed_exactly(labeler, tmp_path):
    """Also with a labeler that remembers predictions: it is called once per step."""
    model = dense_learner(pseudo_labeler=labeler, balanced_head=CoSSL(COUNTS, 2, 0.3))
    assert_saved_and_resumed_exactly(model, tmp_path / "model.keras")


def test_compiled_step_computes_the_same():
    assert_compiles_to_the_same(
        lambda: dense_learner(balanced_head=CoSSL(COUNTS, 1), threshold=0.3)
    )


def test_head_makes_the_pseudo_labels_of_remixmatch():
    model = dense_learner(
        daso_tf.ReMixMatch,
        balanced_head=CoSSL(COUNTS, 0),
        strong=daso_tf.augment.RandAugment(num_ops=0, cutout=2),
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    views = model.make_views(images[:4], images[4:], tf.constant([0, 0]))
    features = model.ema_encoder(views.weak, training=False)
    expected = np.argmax(model.balanced_classifier(features), axis=1)
    outcome = model.compute_losses(views, tf.constant([0, 1, 2, 0]))
    np.testing.assert_array_equal(outcome.pseudo_labels.final, expected)
    assert "cossl_loss" in outcome.losses


def test_config_round_trip():
    head = CoSSL(COUNTS, 5, 0.3, 2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert again.get_config() == head.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labeled_counts": [3, 0]}, "at least 1 for every class"),
        ({"teach_after": -1}, "teach_after must be at least 0, not -1"),
        ({"least_share": 1.1}, r"least_share must be in \[0, 1\], not 1.1"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, not -1"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoSSL(**{"labeled_counts": COUNTS, "teach_after": 10, **arguments})


def test_head_without_averaged_features_is_an_error():
    with pytest.raises(ValueError, match="CoSSL learns from averaged features only"):
        CoSSL(COUNTS, 10).loss(None, None, None, tf.constant([0]), tf.zeros(1), tf.constant(0))


def test_docstring_example():
    outcome = doctest.testmod(cossl, extraglobs={"tf": tf})
    assert outcome.attempted > 0
    assert outcome.failed == 0
