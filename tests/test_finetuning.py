"""`--finetune_steps`: after a run on frozen features, the whole network is trained on pictures."""

import contextlib
import io
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import arguments, run_train

import daso_tf
from daso_tf.encoders.adapter import FeatureStatistics
from daso_tf.encoders.batch_normalization import batch_norms_of
from daso_tf.platform.npz import ArrayFile

STEPS, TUNED = 2, 4


def command(folder, model_dir, *more):
    frozen = {"freeze_encoder": True, "adapter_units": 8, "bank_weak_views": 2}
    sizes = {"steps": STEPS, "evaluate_every": 2, "checkpoint_every": 1}
    places = {"cache_dir": folder / "cache", "model_dir": model_dir}
    return [*arguments(**frozen, **sizes, **places), f"--finetune_steps={TUNED}", *more]


def ran(*argv):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert run_train(*argv) == 0
    return output.getvalue()


def arrays(model_dir, step=TUNED):
    with ArrayFile(model_dir / "finetuned" / "checkpoints" / f"step_{step:08d}.npz") as file:
        return {name: file[name] for name in file.headers}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is fine-tuned, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, ran(*command(folder, folder / "run"))


def test_the_joined_encoder_begins_as_both_and_keeps_its_statistics():
    keras.utils.set_random_seed(0)
    frozen = daso_tf.encoders.wide_resnet(10, 1, (8, 8, 3))
    frozen.trainable = False
    adapter = daso_tf.encoders.adapter("mlp", FeatureStatistics.of([np.random.rand(9, 64)]), 4)
    images = tf.random.normal((6, 8, 8, 3))
    joined = daso_tf.encoders.finetunable(frozen, adapter)
    np.testing.assert_allclose(joined(images), adapter(frozen(images)), rtol=1e-5)
    statistics = [norm.moving_mean.numpy() for norm in batch_norms_of(joined)]
    # As a learner copies it for its average.
    for encoder in (joined, type(joined).from_config(joined.get_config())):
        encoder.set_weights(joined.get_weights())
        encoder(images, training=True)
        for norm, before in zip(batch_norms_of(encoder), statistics, strict=True):
            np.testing.assert_array_equal(norm.moving_mean.numpy(), before)
        convolutions = [weight for weight in encoder.trainable_weights if len(weight.shape) == 4]
        assert len(convolutions) == 9


def test_the_fine_tuned_network_is_exported(whole):
    folder, output = whole
    assert "Exported: this run, fine-tuned" in output
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["exported"]["answer"] == "finetuned"
    of_tuned = json.loads((folder / "run" / "finetuned" / "results.json").read_text())
    last = of_tuned["evaluations"][-1]["test"]
    assert results["exported"]["test"]["accuracy"] == last["accuracy"]
    assert results["comparison"]["parts"]["test"]["finetuned"]["recall"] == last["recall"]
    card = (folder / "run" / "export" / "MODEL.md").read_text()
    assert f"was then trained as a whole on pictures for {TUNED} steps" in card


def test_all_but_batch_norm_is_trained(whole):
    folder, _ = whole
    first, last = (arrays(folder / "run", step) for step in (2, TUNED))
    network = [name for name in first if name.startswith("network/")]
    same = [first[name] for name in network if np.array_equal(first[name], last[name])]
    # Of WRN-10 the 7 BatchNorm layers with 4 weights each; mean and std of the adapter.
    assert len(same) == 7 * 4 + 2 and all(array.ndim == 1 for array in same)


def test_a_fine_tuning_that_was_killed_ends_as_a_whole_one(whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "finetuned" / "checkpoints" / f"step_{TUNED:08d}.npz").unlink()
    ran(*command(folder, tmp_path / "run", "--answer=auto"))
    expected, found = arrays(folder / "run"), arrays(tmp_path / "run")
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    compared = json.loads((tmp_path / "run" / "results.json").read_text())["comparison"]
    balanced = {n: of["balanced_accuracy"] for n, of in compared["parts"]["validation"].items()}
    exported = compared["answer"]["exported"]
    assert exported == "labels_only" or balanced[exported] == max(
        balanced["run"], balanced["finetuned"]
    )


def test_an_encoder_that_is_trained_cannot_be_fine_tuned(tmp_path, capsys):
    assert run_train(*arguments(model_dir=tmp_path / "run"), "--finetune_steps=2") == 2
    assert "--finetune_steps=2 does not go with an encoder" in capsys.readouterr().err
