"""Keras 2.15 and Keras 3 read the files of the other one, and compute the same."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_exchange import DATA, MAJOR, TWENTY_STEPS, small_encoder, small_learner, twenty_steps

from daso_tf.platform.keras_2_models import load_model
from daso_tf.run.checkpoints import Checkpoints

# Keras warns of folders that are not there.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(params=[2, 3], ids=["of Keras 2.15", "of Keras 3"])
def written(request):
    """The folder that a version wrote, and the predictions of its learner."""
    folder = DATA / f"keras_{request.param}"
    with np.load(folder / "answers.npz") as answers:
        return folder, dict(answers)


def test_twenty_steps_are_the_same():
    """The views are equal bit for bit; the losses differ by 1e-5 after twenty steps in float32."""
    steps, recorded = twenty_steps(), json.loads(TWENTY_STEPS.read_text())
    assert [step["views"] for step in steps] == [step["views"] for step in recorded]
    for step, there in zip(steps, recorded, strict=True):
        assert step["losses"] == pytest.approx(there["losses"], rel=1e-4)


def test_checkpoint_is_restored(written):
    folder, answers = written
    learner = small_learner()
    assert Checkpoints(folder / "checkpoints").restore(learner)
    assert int(learner.step) == int(learner.optimizer.iterations) == 3
    assert np.sum(learner.pseudo_labeler.prototype_classifier.pushed) == 3 * 6
    probabilities = learner.predict(answers["images"], verbose=0)
    np.testing.assert_allclose(probabilities, answers["probabilities"], atol=1e-6)


def test_encoder_weights_load(written):
    folder, answers = written
    encoder = small_encoder()
    encoder.load_weights(folder / "encoder.weights.h5")
    features = encoder(small_learner().as_input(answers["images"]), training=False)
    np.testing.assert_allclose(features, answers["features"], atol=1e-5)


def test_export_predicts(written):
    folder, answers = written
    serve = tf.saved_model.load(str(folder / "export")).signatures["serving_default"]
    answer = serve(images=tf.constant(answers["images"]))
    np.testing.assert_allclose(answer["probabilities"], answers["probabilities"], atol=1e-6)
    names = np.array([b"ant", b"bee", b"cicada"])[answers["probabilities"].argmax(axis=1)]
    np.testing.assert_array_equal(answer["class_names"], names)


def test_saved_learner_is_loaded_completely(written, tmp_path):
    folder, answers = written
    if folder.name == "keras_3" and MAJOR == 2:
        with pytest.raises(ValueError, match=r"by Keras 3\.\d.*cannot read it. Convert it"):
            load_model(folder / "learner.keras")
        return
    learner = load_model(folder / "learner.keras")
    restored = small_learner()
    Checkpoints(folder / "checkpoints").restore(restored)
    ours, theirs = (
        np.load(Checkpoints(tmp_path / name).save(twin))
        for name, twin in (("loaded", learner), ("restored", restored))
    )
    with ours, theirs:
        assert ours.files == theirs.files
        # Only Keras 2.15 saves what the metrics have counted in a `.keras` file.
        for name in [name for name in ours.files if not name.startswith("metrics/")]:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert learner.class_names == ("ant", "bee", "cicada")
    assert learner.optimizer.nesterov
    learner.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    probabilities = again.predict(answers["images"], verbose=0)
    np.testing.assert_allclose(probabilities, answers["probabilities"], atol=1e-6)
