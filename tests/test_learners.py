"""The learners as a Keras user calls them: fit, evaluate, predict, save, load, export."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import STATISTICS

import daso_tf
from daso_tf.balance import LogitAdjustedLoss
from daso_tf.learners import FixMatchViews

K, SIZE = 4, 12


def pictures(count, seed, size=SIZE):
    """Makes noisy images in the color of their class, which a small network can classify."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, count).astype(np.int32)
    palette = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [190, 190, 60]])
    noise = rng.normal(0, 25, (count, size, size, 3))
    images = np.clip(palette[labels][:, None, None] + noise, 0, 255)
    return images.astype(np.uint8), labels


def batches(steps, with_truth=True, first=0):
    """Returns batches of 8 labeled and 16 unlabeled images, a different one for every step."""

    def generate():
        for step in range(first, first + steps):
            (labeled, labels), (unlabeled, truth) = pictures(8, step), pictures(16, 1000 + step)
            yield (labeled, unlabeled), ((labels, truth) if with_truth else labels)

    def image(count):
        return tf.TensorSpec((count, SIZE, SIZE, 3), tf.uint8)

    labels = tf.TensorSpec((8,), tf.int32)
    if with_truth:
        labels = (labels, tf.TensorSpec((16,), tf.int32))
    signature = ((image(8), image(16)), labels)
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def small_daso(**arguments):
    settings = {
        "pretrain_steps": 3,
        "queue_size": 4,
        "distribution_period": 2,
        "threshold": 0.5,
        "strong": daso_tf.augment.RandAugment(cutout=4),
        **STATISTICS,
        "class_names": ["red", "green", "blue", "yellow"],
    }
    keras.utils.set_random_seed(1)
    encoder = daso_tf.encoders.wide_resnet(10, 1, (SIZE, SIZE, 3))
    return daso_tf.DASO(encoder, K, **{**settings, **arguments})


def compiled(model, **arguments):
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True)
    model.compile(optimizer, jit_compile=False, **arguments)
    return model


def state(model):
    """Returns the values of all variables that a run must remember."""
    variables = [*model.weights, *model.optimizer.variables]
    return [np.array(variable) for variable in variables]


def assert_same_state(ours, theirs):
    for a, b in zip(state(ours), state(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def trained():
    """A model after 30 steps, and the history that `fit` returned."""
    model = compiled(small_daso())
    validation = tf.data.Dataset.from_tensor_slices(pictures(32, 9)).batch(16)
    history = model.fit(
        batches(30), epochs=3, steps_per_epoch=10, validation_data=validation, verbose=0
    )
    return model, history.history


def test_fit_learns_and_logs(trained):
    model, history = trained
    assert int(model.step) == 30
    assert history["supervised_loss"][-1] < history["supervised_loss"][0]
    assert history["val_balanced_accuracy"][-1] > 0.9
    assert 0 <= history["mask_rate"][-1] <= 1
    for name in ("loss", "consistency_loss", "alignment_loss", "gradient_norm"):
        assert np.isfinite(history[name]).all()
    for epoch in range(3):
        parts = [
            history[f"{part}_loss"][epoch] for part in ("supervised", "consistency", "alignment")
        ]
        assert history["loss"][epoch] == pytest.approx(sum(parts), rel=1e-4)
    assert 0.5 < history["pseudo_label_recall"][-1] <= 1


def test_pseudo_label_statistics_survive_the_validation(trained):
    model, history = trained
    truth = np.concatenate([pictures(16, 1000 + step)[1] for step in range(20, 30)])
    for kind in ("linear", "semantic", "final"):
        counts = model.pseudo_label_statistics[kind].per_class()
        np.testing.assert_array_equal(counts["true"], np.bincount(truth, minlength=K))
    final = model.pseudo_label_statistics["final"].per_class()
    assert history["pseudo_label_recall"][-1] == pytest.approx(np.mean(final["recall"]))


def test_queues_and_histogram_count_the_whole_run(trained):
    model, _ = trained
    labeler = model.pseudo_labeler
    labels = np.concatenate([pictures(8, step)[1] for step in range(30)])
    np.testing.assert_array_equal(
        labeler.prototype_classifier.pushed, np.bincount(labels, minlength=K)
    )
    assert np.sum(labeler.distribution.in_force) == 2 * 16  # two steps of 16 images


def test_evaluate_and_predict_use_the_moving_average(trained):
    model, _ = trained
    images, labels = pictures(40, 77)
    probabilities = model.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    features = model.ema_encoder(model.as_input(tf.constant(images)), training=False)
    logits = model.ema_classifier(features)
    np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-5)
    results = model.evaluate(images, labels, verbose=0, return_dict=True)
    predicted = probabilities.argmax(axis=1)
    assert results["accuracy"] == pytest.approx(np.mean(predicted == labels))
    expected = -np.mean(np.log(probabilities[np.arange(40), labels]))
    assert results["loss"] == pytest.approx(expected, rel=1e-3)


def test_predict_resizes(trained):
    model, _ = trained
    large = pictures(6, 5, size=3 * SIZE)[0]
    assert model.predict(large, verbose=0).shape == (6, K)


def test_a_loaded_learner_is_equal_and_trains_further(trained, tmp_path):
    """It has the same state and config, and its next steps are those of the original."""
    model, _ = trained
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_state(model, again)
    assert again.pseudo_labeler.get_config() == model.pseudo_labeler.get_config()
    for name in ("class_names", "mean", "std", "seed", "resolution"):
        assert getattr(again, name) == getattr(model, name)
    assert again.threshold.confidence == model.threshold.confidence == 0.5
    original = keras.saving.load_model(tmp_path / "model.keras")
    for twin in (original, again):
        twin.fit(batches(4, first=30), epochs=1, steps_per_epoch=4, verbose=0)
    assert_same_state(original, again)
    assert int(again.step) == 34


def test_weights_file_round_trip(trained, tmp_path):
    model, _ = trained
    model.save_weights(tmp_path / "model.weights.h5")
    again = compiled(small_daso())
    again.load_weights(tmp_path / "model.weights.h5")
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


def test_same_seed_same_run():
    runs = [compiled(small_daso(seed=5)) for _ in range(2)]
    for model in runs:
        model.fit(batches(3), epochs=1, steps_per_epoch=3, verbose=0)
    assert_same_state(*runs)


def test_views_differ_from_step_to_step_and_seed_to_seed():
    labeled, unlabeled = tf.constant(pictures(8, 0)[0]), tf.constant(pictures(16, 1)[0])
    model = small_daso()
    first = model.make_views(labeled, unlabeled, tf.constant([0, 0]))
    again = model.make_views(labeled, unlabeled, tf.constant([0, 0]))
    for ours, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, same)
    for seed in ([0, 1], [1, 0]):
        other = model.make_views(labeled, unlabeled, tf.constant(seed))
        for ours, another in zip(first, other, strict=True):
            assert (np.array(ours) != np.array(another)).any()


def test_plain_fixmatch_has_no_memory_and_no_alignment():
    encoder = daso_tf.encoders.wide_resnet(10, 1, (SIZE, SIZE, 3))
    model = compiled(daso_tf.FixMatch(encoder, K, **STATISTICS))
    history = model.fit(batches(2, with_truth=False), steps_per_epoch=2, verbose=0).history
    assert sorted(history) == [
        "consistency_loss", "gradient_norm", "loss", "mask_rate", "supervised_loss"
    ]  # fmt: skip
    assert not model.pseudo_labeler.weights


def test_one_step_is_pytorchs_sgd_with_l2_in_the_gradient():
    """Weight decay includes biases and BatchNorm, and the momentum is Nesterov's."""
    model = compiled(small_daso(weight_decay=0.1))
    views = FixMatchViews(*(model.as_input(tf.constant(pictures(n, n)[0])) for n in (8, 16, 16)))
    labels = tf.constant(pictures(8, 8)[1])
    before = [np.array(weight) for weight in model.trainable_variables]
    statistics = model.get_weights()
    with tf.GradientTape() as tape:
        total = tf.add_n(list(model.compute_losses(views, labels).losses.values()))
    gradients = tape.gradient(total, model.trainable_variables)
    norm = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))
    model.set_weights(statistics)

    outcome = model.train_on_views(views, labels)
    assert float(outcome.gradient_norm) == pytest.approx(norm, rel=1e-4)
    for old, gradient, new in zip(before, gradients, model.trainable_variables, strict=True):
        decayed = np.array(gradient) + 0.1 * old
        buffer = decayed  # PyTorch's first step
        np.testing.assert_allclose(new, old - 0.03 * (decayed + 0.9 * buffer), rtol=1e-4, atol=1e-5)


def test_metrics_of_the_user_measure_training_and_evaluation():
    model = compiled(small_daso(), metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, "top2")])
    validation = tf.data.Dataset.from_tensor_slices(pictures(8, 3)).batch(8)
    history = model.fit(batches(2), steps_per_epoch=2, validation_data=validation, verbose=0)
    assert {"top2", "val_top2"} <= history.history.keys()


def test_encoder_of_keras_applications_trains_and_is_saved(tmp_path):
    encoder = daso_tf.encoders.build("applications:MobileNet", 32, **STATISTICS)
    # To trace its graph takes longer than to run the step once.
    model = compiled(daso_tf.FixMatch(encoder, K, **STATISTICS), run_eagerly=True)
    rng = np.random.default_rng(0)
    labeled = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    unlabeled = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    logs = model.train_on_batch((labeled, unlabeled), np.arange(4), return_dict=True)
    assert np.isfinite(logs["loss"])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(labeled), again(labeled))


SERVE = """
import json, sys
sys.modules["daso_tf"] = None  # importing it would raise
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for path in sys.argv[2:]:
    answer = serve(images=tf.constant(np.load(path)))
    names = [name.decode() for name in answer.pop("class_names").numpy()]
    answer = {name: value.numpy().tolist() for name, value in answer.items()}
    print(json.dumps({**answer, "class_names": names}))
"""


def test_export_serves_any_size_without_the_package(trained, tmp_path):
    model, _ = trained
    model.export(tmp_path / "export")
    images = [pictures(5, 21, size)[0] for size in (SIZE, 3 * SIZE + 1)]
    for index, array in enumerate(images):
        np.save(tmp_path / f"{index}.npy", array)
    process = subprocess.run(
        [sys.executable, "-c", SERVE, "export", "0.npy", "1.npy"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    for array, line in zip(images, process.stdout.splitlines()[-2:], strict=True):
        answer, expected = json.loads(line), model.predict(array, verbose=0)
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
        assert answer["class_ids"] == expected.argmax(axis=1).tolist()
        assert answer["class_names"] == [model.class_names[k] for k in answer["class_ids"]]


def test_export_replaces_an_export_and_nothing_else(trained, tmp_path):
    model, _ = trained
    target = tmp_path / "export"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="would be lost"):
        model.export(target)
    assert (target / "thesis.tex").read_text() == "years of work"
    (target / "thesis.tex").unlink()
    model.export(target)
    model.export(target)
    assert tf.saved_model.contains_saved_model(str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, not 1"),
        ({"threshold": 1.2}, r"threshold must be in \[0, 1\], not 1.2"),
        ({"unlabeled_weight": -1.0}, "unlabeled_weight must be at least 0, not -1.0"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), not 1.0"),
        (
            {"std": (0.2, 0.0, 0.2)},
            r"std must be three numbers in \(0, 1\].*, not \(0.2, 0.0, 0.2\)",
        ),
        ({"mean": (-0.1, 0.5, 0.5)}, r"mean must be three numbers in \[0, 1\]"),
        ({"mean": (0.5,)}, r"one per channel, not \(0.5,\)"),
        ({"mean": (125.3, 123.0, 113.9)}, "Divide statistics of values 0 to 255 by 255"),
        ({"mean": None}, r"mean and std are required.*mean=data.mean, std=data.std"),
        ({"std": None}, "mean and std are required"),
        ({"class_names": ["one"]}, "class_names must have one entry for each of the 4"),
        ({"ramp_steps": -1}, "ramp_steps must be at least 0, not -1"),
        ({"supervised_loss": LogitAdjustedLoss([3, 2, 1])}, "is for 3 classes, not 4"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    encoder = daso_tf.encoders.wide_resnet(10, 1, (SIZE, SIZE, 3))
    with pytest.raises(ValueError, match=message):
        daso_tf.DASO(encoder, **{"num_classes": K, **STATISTICS, **arguments})


def test_misuse_is_named():
    model = small_daso()
    with pytest.raises(ValueError, match="has its own losses"):
        model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="but not input_signature"):
        model.export("nowhere", input_signature=[])
    with pytest.raises(ValueError, match="either pseudo_labeler or its arguments"):
        small_daso(pseudo_labeler=daso_tf.pseudo_labels.DASOPseudoLabeler())
