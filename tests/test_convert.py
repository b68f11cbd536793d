"""The convert command: reads the authors' state dicts and models of Keras 2.15."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

import daso_tf
from daso_tf.commands import convert, terminal
from daso_tf.encoders.pytorch_names import pytorch_weights, to_pytorch

DATA = Path(__file__).parent / "data"


def run_convert(*argv):
    return terminal.call(convert.COMMAND, list(map(str, argv)))


@pytest.fixture(scope="module")
def networks():
    """A WRN-10-1 of 7 classes twice, under the names that the authors' code recorded."""
    with np.load(DATA / "many_settings.npz") as trace:
        return [
            {
                name.removeprefix(f"{part}/"): trace[name]
                for name in trace.files
                if name.startswith(f"{part}/")
            }
            for part in ("init", "final")
        ]


@pytest.fixture
def state_dict(networks):
    """The arrays that the program in convert's docstring writes, with the authors' names."""
    network, average = networks
    return {
        **{f"model.{name}": array for name, array in network.items()},
        **{f"ema_model.ema_model.{name}": array for name, array in average.items()},
        "model.encoder.unit4.0.num_batches_tracked": np.array(600),
        "model.projection.fc.weight": np.zeros((4, 64), np.float32),
    }


def assert_holds(layers, network):
    weights = pytorch_weights(*layers)
    assert weights.keys() == network.keys()
    for name, variable in weights.items():
        np.testing.assert_array_equal(to_pytorch(np.asarray(variable)), network[name], name)


def assert_holds_both(learner, network, average):
    assert_holds((learner.encoder, learner.classifier), network)
    assert_holds((learner.ema_encoder, learner.ema_classifier), average)


def test_state_dict_becomes_a_learner(state_dict, networks, tmp_path, capsys):
    np.savez(tmp_path / "authors.npz", **state_dict)
    target = tmp_path / "ours.keras"
    settings = ("--image_size=16", "--image_mean=0.5,0.4,0.3", "--image_std=0.2,0.2,0.1")
    assert run_convert(*settings, tmp_path / "authors.npz", target) == 0
    assert str(target) in capsys.readouterr().out
    learner = keras.saving.load_model(target)
    assert_holds_both(learner, *networks)
    assert (learner.num_classes, learner.resolution) == (7, 16)
    assert (learner.mean, learner.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def test_safetensors_are_read(state_dict, networks, tmp_path):
    save_file(state_dict, tmp_path / "authors.safetensors")
    assert_holds_both(convert.read(str(tmp_path / "authors.safetensors")), *networks)


def test_a_single_network_is_its_own_average(networks):
    network, _ = networks
    for prefix in ("", "module.", "model.", "ema_model."):
        learner = convert.from_state_dict({prefix + name: a for name, a in network.items()}, 16)
        assert_holds_both(learner, network, network)


def test_encoder_weights_start_a_run(state_dict, networks, tmp_path):
    np.savez(tmp_path / "authors.npz", **state_dict)
    target = tmp_path / "authors.weights.h5"
    assert run_convert(tmp_path / "authors.npz", target) == 0
    encoder = daso_tf.encoders.build(
        "wrn_10_1", 16, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), weights=str(target)
    )
    _, average = networks
    for name, variable in pytorch_weights(encoder).items():
        np.testing.assert_array_equal(to_pytorch(np.asarray(variable)), average[name], name)


def test_a_folder_is_an_export(state_dict, tmp_path):
    np.savez(tmp_path / "authors.npz", **state_dict)
    assert run_convert(tmp_path / "authors.npz", tmp_path / "export") == 0
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = convert.from_state_dict(state_dict).predict(images, verbose=0)
    np.testing.assert_allclose(serve(images=images)["probabilities"], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_of_keras_2_becomes_an_export(tmp_path):
    assert run_convert(DATA / "keras_2" / "learner.keras", tmp_path / "export") == 0
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    with np.load(DATA / "keras_2" / "answers.npz") as answers:
        answer = serve(images=tf.constant(answers["images"]))
        np.testing.assert_allclose(answer["probabilities"], answers["probabilities"], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {"a": np.zeros(2)},
            "not a state dict of the authors' network: classifier.class",
        ),
        (
            lambda s: {
                k: a for k, a in s.items() if k != "ema_model.ema_model.encoder.unit4.0.bias"
            },
            "it lacks encoder.unit4.0.bias",
        ),
        (lambda s: s | {"model.abc_classifier.classifier.bias": np.zeros(7)}, "not have abc_class"),
        (
            lambda s: s | {"model.encoder.unit4.0.bias": np.zeros(3)},
            "encoder.unit4.0.bias (3,) instead of (64,)",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(change, message, state_dict, tmp_path, capsys):
    np.savez(tmp_path / "authors.npz", **change(state_dict))
    assert run_convert(tmp_path / "authors.npz", tmp_path / "export") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("only.npz",), "SOURCE TARGET"),
        (("nowhere.npz", "export"), "nowhere.npz"),
        (("nowhere.keras", "export"), "nowhere.keras"),
        (("model.pth", "export"), "a .keras, .npz or .safetensors file"),
        ((DATA / "keras_2" / "answers.npz", "export"), "not a state dict"),
        ((DATA / "README.md", "export"), "a .keras, .npz or .safetensors file"),
        (("--image_mean=0.5", "a.npz", "export"), "--image_mean=0.5 must be three numbers"),
        (("--image_std=a,b,c", "a.npz", "export"), "--image_std=a,b,c must be three numbers"),
        (("--image_size=4", "a.npz", "export"), "[8, inf)"),
    ],
)
def test_what_cannot_be_converted_is_named(argv, message, capsys):
    assert run_convert(*argv) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_file_is_named(tmp_path, capsys):
    for name in ("a.keras", "a.npz", "a.safetensors"):
        (tmp_path / name).write_text("nothing of the kind")
        assert run_convert(tmp_path / name, tmp_path / "export") == 2
        assert f"{name} cannot be converted" in capsys.readouterr().err


def test_a_target_of_another_kind_is_refused(state_dict, tmp_path, capsys):
    np.savez(tmp_path / "authors.npz", **state_dict)
    assert run_convert(tmp_path / "authors.npz", tmp_path / "ours.h5") == 2
    assert "a .weights.h5 file or a folder" in capsys.readouterr().err
