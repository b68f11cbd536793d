"""Feature banks: views of a frozen encoder that are computed once and kept."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import daso_tf
from daso_tf.augment import RandAugment, StoredView, Weak, normalize
from daso_tf.encoders.adapter import FeatureStatistics, StandardizedFeatures, StepDropout
from daso_tf.platform import draws
from daso_tf.platform.progress import Progress
from daso_tf.step import bank_files, feature_bank
from daso_tf.step.bank_files import PIECE, BankFile

SIZE, F, K = 8, 6, 3
LABELS = [0] * 6 + [1] * 4 + [2] * 2


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def data():
    return daso_tf.data.from_arrays(
        pictures(12), LABELS, pictures(PIECE + 6, 1), test=(pictures(9, 2), [0, 1, 2] * 3)
    )


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(3)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(F, 5, activation="relu")(image)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bank(data, encoder, folder):
    return daso_tf.feature_bank(data, encoder, weak_views=2, strong_views=3, cache_dir=folder)


def learner(name, bank, adapter="mlp", **arguments):
    keras.utils.set_random_seed(1)
    statistics = FeatureStatistics.of([bank.labeled.views[0][:, 0], bank.unlabeled.views[0][:, 0]])
    small = daso_tf.encoders.adapter(adapter, statistics, units=5)
    model = getattr(daso_tf, name)(small, K, data=bank, **arguments)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def batches(model, bank):
    return daso_tf.data.training_batches(
        bank, batch_size=4, unlabeled_ratio=2, seed=0, **model.batch_arguments
    )


# ---- What a bank holds


def test_rows_hold_plain_weak_and_strong_views_as_the_encoder_answers_them(data, encoder, bank):
    def answer(images):
        return encoder(normalize(images, data.mean, data.std), training=False).numpy()

    second = data.unlabeled.images[PIECE:]  # the second piece has draws of its own
    rows = bank.unlabeled.take(np.arange(PIECE, PIECE + 6))
    assert rows.shape == (6, 1 + 2 + 3, F) and rows.dtype == np.float16
    np.testing.assert_allclose(rows[:, 0], answer(second), atol=2e-3)
    weak = Weak()(second, seed=[1, 1])
    np.testing.assert_allclose(rows[:, 2], answer(weak), atol=2e-3)
    seeds = tf.random.experimental.stateless_split([1, (1 << 20) + 2], 2, alg="philox")
    strong = RandAugment()(Weak()(second, seed=seeds[0]), seed=seeds[1])
    np.testing.assert_allclose(rows[:, 5], answer(strong), atol=2e-3)
    assert bank.labeled.shape == (3, F) and bank.test.shape == (1, F)
    np.testing.assert_array_equal(bank.labeled.labels, LABELS)


def test_rows_are_mapped_from_the_disk(bank):
    assert all(isinstance(kind, np.memmap) for kind in bank.unlabeled.views)


def test_a_second_bank_on_the_same_pictures_computes_only_what_is_new(data, encoder, folder, bank):
    said = []
    daso_tf.feature_bank(
        data, encoder, weak_views=2, strong_views=0, cache_dir=folder, report=said.append
    )
    assert "read from the cache" in said[0] and len(said) == 1
    daso_tf.feature_bank(
        data, encoder, weak_views=3, strong_views=3, cache_dir=folder, report=said.append
    )
    assert f"computing {3 * (12 + PIECE + 6)} views" in said[1]  # weak ones only


def test_other_weights_are_another_bank(data, encoder, folder, bank):
    other = keras.models.clone_model(encoder)
    other.set_weights([weight + 1 for weight in encoder.get_weights()])
    said = []
    daso_tf.feature_bank(data, other, weak_views=1, cache_dir=folder, report=said.append)
    assert "computing" in said[0]


def test_a_column_of_views_can_be_chosen_by_the_seed():
    rows = tf.range(5.0)[None, :, None] * tf.ones((200, 1, 1))
    view = StoredView(first=2, count=3)
    chosen = view(rows, seed=[0, 1]).numpy()
    assert set(chosen[:, 0, 0]) == {2, 3, 4}
    np.testing.assert_array_equal(chosen[:, 1:], rows[:, 1:])
    np.testing.assert_array_equal(chosen, view(rows, seed=[0, 1]))
    assert (chosen != view(rows, seed=[0, 2]).numpy()).any()
    assert view(tf.cast(rows, tf.float16), seed=[0, 1]).dtype == tf.float16


# ---- The files


def filled(file, fails_at=None):
    computed = []

    def compute(number, members):
        if number == fails_at:
            raise KeyboardInterrupt
        computed.append(number)
        return np.full((len(members), *file.shape[1:]), number + 1)

    with contextlib.suppress(KeyboardInterrupt):
        file.fill(compute, set())
    return computed


@pytest.fixture
def file(tmp_path):
    return BankFile(tmp_path, "key", (20 * PIECE + 1, 1, 2))


def test_an_interrupted_computation_continues(file):
    assert filled(file, fails_at=18) == list(range(18))
    assert filled(file) == [16, 17, 18, 19, 20]  # the last two were not on the disk for sure
    assert filled(file) == []
    assert file.views()[-1].tolist() == [[21, 21]] and file.views()[0].tolist() == [[1, 1]]


@pytest.mark.parametrize(
    "damage, computed",
    [
        (lambda content: content[:-1] + b"\x01", [20]),
        (lambda content: content[:200] + b"\x01" + content[201:], [0]),
        (lambda content: b"garbage" + content[7:], list(range(21))),
        (lambda content: content[:-9], list(range(21))),
        (lambda content: b"", list(range(21))),
    ],
)
def test_damaged_parts_are_computed_again(file, damage, computed):
    filled(file)
    file.path.write_bytes(damage(file.path.read_bytes()))
    assert filled(file) == computed
    assert not file.missing()


@pytest.mark.parametrize("state", ["", "[]", '{"version": 1}', '{"version": 9}', "null"])
def test_a_damaged_state_is_no_state(file, state):
    filled(file)
    file.state_path.write_text(state)
    assert len(file.missing()) == 21


def test_a_folder_that_cannot_be_written_is_refused(data, encoder, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(daso_tf.data.DataError, match=r"file cannot be written .*--cache_dir"):
        daso_tf.feature_bank(data, encoder, cache_dir=path)


def test_a_full_folder_is_refused(data, encoder, tmp_path, monkeypatch):
    usage = bank_files.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(bank_files.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(daso_tf.data.DataError, match=r"free space.*--bank_weak_views"):
        daso_tf.feature_bank(data, encoder, cache_dir=tmp_path)


def test_a_bank_above_the_limit_is_refused_with_its_size(data, encoder, tmp_path):
    with pytest.raises(daso_tf.data.DataError, match=r"70 unlabeled images x 4 views.*6 features"):
        daso_tf.feature_bank(data, encoder, cache_dir=tmp_path, max_gigabytes=1e-6)
    assert not list(tmp_path.iterdir())


def test_unreadable_files_are_left_out_of_labels_too(encoder, tmp_path):
    files = []
    for number, image in enumerate(pictures(4)):
        files.append(tmp_path / f"{number}.png")
        keras.utils.save_img(files[-1], image, scale=False)
    files[1].write_bytes(b"no picture")

    def loaded():
        unreadable = daso_tf.data.errors.UnreadableFiles(1, "one may be")
        images = daso_tf.data.ImageFiles(files, [0, 0, 1, 1], (SIZE, SIZE), unreadable)
        return daso_tf.data.SemiSupervisedData(
            images, images, None, None, ("a", "b"), (0.5,) * 3, (0.2,) * 3
        )

    for _ in range(2):  # computed, then read
        rows = daso_tf.feature_bank(loaded(), encoder, cache_dir=tmp_path / "cache").labeled
        assert rows.labels.tolist() == [0, 1, 1, 1]
        np.testing.assert_array_equal(rows.views[0][1], rows.views[0][2])


def test_progress_says_how_long_the_rest_takes():
    now, said = [0.0], []
    progress = Progress(1000, said.append, clock=lambda: now[0])
    for _ in range(9):
        now[0] += 10
        progress.add(100)
    progress.finish()
    assert "200 of 1,000 views, 10 per second, about 1 min 20 s left" in said[0]
    assert len(said) == 5 and "900 views in 1 min 30 s" in said[-1]


def test_the_default_folder_is_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(feature_bank.default_cache_dir()) == "/somewhere/daso_tf"


# ---- Learning from a bank

LEARNERS = ("FixMatch", "USADTM", "MeanTeacher", "PseudoLabel", "Student", "Supervised")


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_learn_from_rows_and_answer_pictures(name, data, bank):
    model = learner(name, bank)
    frozen = [weight.copy() for weight in model.frozen_encoder.get_weights()]
    before = model.encoder.get_weights()
    model.fit(batches(model, bank), epochs=1, verbose=0)
    for then, now in zip(frozen, model.frozen_encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(then, now)
    after = model.encoder.get_weights()
    assert any((then != now).any() for then, now in zip(before, after, strict=True))
    of_rows = model.predict(daso_tf.data.evaluation_batches(bank.test, 9), verbose=0)
    of_pictures = model.predict(data.test.images, verbose=0)
    np.testing.assert_allclose(of_rows, of_pictures, atol=2e-2)


@pytest.mark.parametrize("name", ["MixMatch", "ReMixMatch"])
def test_learners_that_mix_images_are_refused(name, bank):
    with pytest.raises(ValueError, match=rf"frozen_encoder does not go with {name}: it mixes"):
        learner(name, bank)


def test_a_bank_without_strong_views_is_refused_by_learners_that_need_them(data, encoder, folder):
    plain = daso_tf.feature_bank(data, encoder, weak_views=2, strong_views=0, cache_dir=folder)
    with pytest.raises(ValueError, match="no strong views"):
        learner("FixMatch", plain)


def test_rows_of_another_encoder_are_refused(bank):
    model = learner("Supervised", bank)
    with pytest.raises(ValueError, match=r"rows of a feature bank .*\(batch, views, 6\)"):
        model.predict(np.zeros((2, 1, 5), np.float16), verbose=0)


def test_a_learner_on_a_bank_is_saved_with_its_frozen_encoder(bank, data, tmp_path):
    model = learner("FixMatch", bank, pseudo_labeler="daso", total_steps=10)
    model.fit(batches(model, bank), epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(data.test.images, verbose=0), loaded.predict(data.test.images, verbose=0)
    )
    loaded.fit(batches(loaded, bank), epochs=1, verbose=0)


def test_training_on_a_bank_is_the_same_twice(bank):
    def trained():
        model = learner("Student", bank, pseudo_labeler="lda_teacher")
        model.fit(batches(model, bank), epochs=1, verbose=0)
        return model.get_weights()

    for one, other in zip(trained(), trained(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_self_training_adds_rows(bank):
    more = daso_tf.data.with_pseudo_labeled(bank, np.array([5, 0]), np.array([2, 2]))
    assert len(more.labeled) == 14 and more.labeled.labels[-1] == 2
    added = more.labeled.take(np.array([12]))
    np.testing.assert_array_equal(added, bank.unlabeled.take(np.array([5]))[:, :3])


# ---- The network on top


def test_features_are_standardized_by_their_roots():
    features = np.random.default_rng(0).gamma(1.0, 2.0, (50, 4)).astype(np.float32)
    statistics = FeatureStatistics.of([features[:20], features[20:]])
    roots = np.sqrt(features.astype(np.float64))
    expected = (roots - roots.mean(axis=0)) / roots.std(axis=0)
    np.testing.assert_allclose(statistics.standardized(features), expected)
    layer = daso_tf.encoders.adapter("none", statistics)
    np.testing.assert_allclose(layer(features), expected, atol=1e-4)
    assert not layer.trainable_weights
    negative = FeatureStatistics.of([features - 1])
    assert not negative.root and isinstance(layer.layers[1], StandardizedFeatures)


def test_dropout_draws_from_the_step():
    layer, ones = StepDropout(0.25), tf.ones((400, 10))
    with draws.of_step(tf.constant([0, 5])):
        first, second = layer(ones, training=True).numpy(), layer(ones, training=True).numpy()
    with draws.of_step(tf.constant([0, 5])):
        np.testing.assert_array_equal(first, layer(ones, training=True))
    assert (first != second).any()
    assert abs((first == 0).mean() - 0.25) < 0.03
    np.testing.assert_allclose(first[first > 0], 1 / 0.75)
    np.testing.assert_array_equal(layer(ones, training=False), ones)
