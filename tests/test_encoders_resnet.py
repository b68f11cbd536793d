"""Residual networks: the published layout, against NumPy, from torchvision's weights."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from state_dicts import random_arrays

from daso_tf.encoders import build, normalization_of, pytorch_names, resnet
from daso_tf.encoders.pytorch_names import load_torchvision_weights, torchvision_weights

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def published_layers(depth):
    """Yields the name and kernel shape of each convolution, and its BatchNorm's name."""
    expansion = 4 if depth == 50 else 1
    yield "conv1", (64, 3, 7, 7), "bn1"
    entering = 64
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            if depth == 50:
                shapes = (width, entering, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)
            else:
                shapes = (width, entering, 3, 3), (width, width, 3, 3)
            for i, shape in enumerate(shapes, start=1):
                yield f"{name}.conv{i}", shape, f"{name}.bn{i}"
            if entering != expansion * width:
                shape = (expansion * width, entering, 1, 1)
                yield f"{name}.downsample.0", shape, f"{name}.downsample.1"
            entering = expansion * width


def state_dict(depth):
    """Random weights by the names and in the layout of torchvision's network."""
    random, state = np.random.default_rng(depth), {}
    for convolution, shape, norm in published_layers(depth):
        kernel = random.standard_normal(shape, np.float32)
        state[f"{convolution}.weight"] = kernel * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        for kind, low, high in (
            ("weight", 0.5, 1.0),
            ("bias", -0.2, 0.2),
            ("running_mean", -0.2, 0.2),
            ("running_var", 0.8, 1.2),
        ):
            state[f"{norm}.{kind}"] = random.uniform(low, high, shape[0]).astype(np.float32)
        state[f"{norm}.num_batches_tracked"] = np.array(7)
    state["fc.weight"] = np.zeros([1000, 512 if depth < 50 else 2048], np.float32)
    state["fc.bias"] = np.zeros([1000], np.float32)
    return state


def numpy_features(state, images, depth):
    """The network in inference mode, written down plainly."""

    def convolved_norm(x, convolution, norm, stride):
        kernel = state[f"{convolution}.weight"]
        x = padded(x, kernel.shape[2] // 2)
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(1, 2))
        x = np.tensordot(windows[:, ::stride, ::stride], kernel, ([3, 4, 5], [1, 2, 3]))
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        return (x - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"]

    def padded(x, pad, value=0.0):
        return np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)], constant_values=value)

    x = np.maximum(convolved_norm(images, "conv1", "bn1", 2), 0)
    windows = np.lib.stride_tricks.sliding_window_view(padded(x, 1, -np.inf), (3, 3), axis=(1, 2))
    x = windows[:, ::2, ::2].max(axis=(-2, -1))
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            strides = (1, stride, 1) if depth == 50 else (stride, 1)
            residual = x
            for i, s in enumerate(strides, start=1):
                residual = convolved_norm(residual, f"{name}.conv{i}", f"{name}.bn{i}", s)
                if i < len(strides):
                    residual = np.maximum(residual, 0)
            if f"{name}.downsample.0.weight" in state:
                x = convolved_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = np.maximum(x + residual, 0)
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize(
    ("depth", "published", "features"),
    [(18, 11_689_512, 512), (34, 21_797_672, 512), (50, 25_557_032, 2048)],
)
def test_resnet_has_the_published_number_of_parameters(depth, published, features):
    encoder = resnet(depth)
    assert encoder.output_shape == (None, features)
    classifier = 1000 * features + 1000
    parameters = sum(int(np.prod(w.shape)) for w in encoder.trainable_weights)
    assert parameters == published - classifier
    ends = [encoder.get_layer(f"layer{i}_{n - 1}").output for i, n in enumerate(BLOCKS[depth], 1)]
    assert [tuple(end.shape[1:]) for end in ends] == [
        (side, side, features * side_7 // 8) for side, side_7 in ((56, 1), (28, 2), (14, 4), (7, 8))
    ]


@pytest.mark.parametrize(("depth", "size"), [(18, 33), (50, 32)])
def test_resnet_with_torchvisions_weights_against_numpy(depth, size, tmp_path):
    """The whole network in inference mode, on an odd and an even size."""
    state, path = state_dict(depth), str(tmp_path / "resnet.npz")
    np.savez(path, **state)
    encoder = build(f"resnet_{depth}", size, MEAN, STD, weights=path)
    images = np.random.default_rng(0).standard_normal([2, size, size, 3], np.float32)
    expected = numpy_features(state, images, depth)
    ours = encoder(tf.constant(images), training=False)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_weights_go_to_torchvisions_names_and_back(tmp_path):
    encoder, path = build("resnet_18", 32, MEAN, STD), tmp_path / "resnet.npz"
    named = torchvision_weights(encoder)
    assert len(named) == len(encoder.weights)
    ours = {name: pytorch_names.to_pytorch(np.asarray(value)) for name, value in named.items()}
    theirs = {
        name: value
        for name, value in state_dict(18).items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }
    np.savez(path, **ours)
    again = build("resnet_18", 32, MEAN, STD, weights=str(path))
    for value, expected in zip(again.get_weights(), encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "layer4.1.bn2.bias"), r"resnet_18.*it lacks layer4\.1\.bn2\.bias$"),
        (lambda s: {"fc.bias": s["fc.bias"]}, r"it lacks bn1\.bias, .* and 96 more"),
        (lambda s: {**s, "layer1.2.conv1.weight": 0}, r"not have layer1\.2\.conv1\.weight$"),
        (
            lambda s: {**s, "conv1.weight": np.zeros([64, 3, 3, 3])},
            r"other shapes: conv1\.weight \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)$",
        ),
        (lambda s: {**s, "bn1.bias": np.array([None] * 64)}, "allow_pickle"),
    ],
    ids=["one name missing", "many missing", "unknown name", "shape", "objects"],
)
def test_wrong_weights_are_refused(change, message, tmp_path):
    path = str(tmp_path / "resnet.npz")
    np.savez(path, **change(state_dict(18)))
    with pytest.raises(ValueError, match=message):
        build("resnet_18", 32, MEAN, STD, weights=path)


def test_refused_weights_change_nothing(tmp_path):
    encoder, path = resnet(18, (32, 32, 3)), tmp_path / "resnet.npz"
    before = encoder.get_weights()
    np.savez(path, **{**state_dict(18), "layer4.0.bn1.bias": np.zeros(3)})
    with pytest.raises(ValueError, match=r"layer4\.0\.bn1\.bias \(3,\) instead of \(512,\)"):
        load_torchvision_weights(encoder, path)
    for value, expected in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("text.npz", "nowhere.npz"):
        with pytest.raises(ValueError, match=name):
            build("resnet_18", 32, MEAN, STD, weights=str(tmp_path / name))


def test_own_weights_round_trip(tmp_path):
    encoder, path = build("resnet_18", 32, MEAN, STD), str(tmp_path / "encoder.weights.h5")
    encoder.save_weights(path)
    again = build("resnet_18", 32, MEAN, STD, weights=path)
    for value, expected in zip(again.get_weights(), encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_initial_weights_are_he_normal_and_independent():
    kernels = [np.asarray(w) for w in resnet(18, (32, 32, 3)).weights if len(w.shape) == 4]
    for kernel in kernels:
        fan_out = kernel.shape[0] * kernel.shape[1] * kernel.shape[3]
        spread = np.std(kernel) / np.sqrt(2 / fan_out)
        assert spread == pytest.approx(1, abs=6 / np.sqrt(kernel.size))
    assert len({kernel.ravel()[:9].tobytes() for kernel in kernels}) == len(kernels)


@pytest.mark.parametrize("name", ["resnet_35", "resnet_0"])
def test_unknown_depths_are_refused(name):
    with pytest.raises(
        ValueError, match=rf"depth .* must be one of 18, 34, 50, 101, not {name[7:]}\."
    ):
        build(name, 32, MEAN, STD)


@pytest.mark.parametrize("name", ["resnet", "resnet50", "resnet_34_2"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="resnet_DEPTH with 18, 34, 50 or 101, such as resnet_34"):
        build(name, 32, MEAN, STD)


# What torchvision's networks compute in PyTorch with random weights; see tests/data/README.md.
RECORDED = Path(__file__).parent / "data" / "encoders" / "torchvision_resnets.npz"


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_safetensors_compute_what_pytorch_computes(depth, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    shapes = {
        name: array.shape for name, array in state_dict(depth).items() if "tracked" not in name
    }
    path = tmp_path / "resnet.safetensors"
    safetensors.save_file(random_arrays(shapes, seed=depth), path)
    encoder = build(f"resnet_{depth}", 48, MEAN, STD, weights=str(path))
    assert normalization_of(encoder) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = np.random.default_rng(0).standard_normal([1, 48, 48, 3], np.float32)
    with np.load(RECORDED, allow_pickle=False) as archive:
        theirs = archive[f"resnet_{depth}"]
    ours = encoder(tf.constant(images), training=False)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_damaged_safetensors_are_named(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "resnet.safetensors"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"resnet\.safetensors could not be loaded into resnet_18"):
        build("resnet_18", 32, weights=str(path))


def test_other_files_are_used_with_the_statistics_of_the_data(tmp_path):
    np.savez(tmp_path / "resnet.npz", **state_dict(18))
    encoder = build("resnet_18", 32, MEAN, STD, weights=str(tmp_path / "resnet.npz"))
    assert normalization_of(encoder) is None
