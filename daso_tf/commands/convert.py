"""Converts trained networks between Keras versions, and from the authors' PyTorch checkpoints.

    daso-tf convert SOURCE TARGET

The checkpoints of a run, exported SavedModels and `*.weights.h5` files of encoders need no
conversion: both versions of Keras read them.

The authors' checkpoints hold a network and its moving average, under the names `model` and
`ema_model`. This writes the file to convert, on a machine with PyTorch:

    saved = torch.load("model_final.pth.tar", map_location="cpu")
    arrays = {
        f"{part}.{name}": value.numpy()
        for part in ("model", "ema_model")
        for name, value in saved[part].items()
    }
    numpy.savez("model_final.npz", **arrays)

The state dict of a single network can be converted too. Its average is then the network itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from daso_tf.commands import terminal
from daso_tf.commands.command_lines import COMMANDS
from daso_tf.data.sources.benchmarks import CIFAR10_STATISTICS
from daso_tf.encoders import wide_resnet
from daso_tf.encoders.pytorch_names import assign, pytorch_weights
from daso_tf.learners import DASO
from daso_tf.platform.disk import open_file
from daso_tf.platform.extras import import_extra
from daso_tf.platform.keras_2_models import load_model
from daso_tf.platform.npz import ArrayFile
from daso_tf.settings.settings import Settings
from daso_tf.step.classifier import Classifier

CIFAR10_MEAN, CIFAR10_STD = CIFAR10_STATISTICS

_WIDEST = 64  # times the width of a residual network; published ones have up to 20
# Heads that only training needs.
_UNUSED = re.compile(r"projection\.")


def main(settings: Settings, arguments: list[str]) -> int:
    """Converts one file.

    Args:
        settings: The values of the flags.
        arguments: SOURCE and TARGET.

    Returns:
        The exit code.
    """
    if len(arguments) != 2:
        return terminal.fail("needs what to convert and what to write: SOURCE TARGET")
    source, target = arguments
    mean = _channels(settings, "image_mean")
    std = _channels(settings, "image_std")
    try:
        write(read(source, settings.image_size, mean, std), target)
    except (ValueError, OSError) as error:
        return terminal.fail(f"{source} cannot be converted to {target}: {error}")
    print(f"Wrote {target}")
    return 0


def read(
    source: str,
    image_size: int = 32,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> keras.Model:
    """Reads a learner from a file.

    Args:
        source: Path of a `.keras` file, or of a state dict as `.npz` or `.safetensors`.
        image_size: See `from_state_dict`; a `.keras` file contains it, as well as the next two.
        mean: See `from_state_dict`.
        std: See `from_state_dict`.

    Returns:
        A learner. From a state dict it is a `daso_tf.DASO` with empty queues and an empty
        histogram.

    Raises:
        ValueError: If the file holds something else.
        OSError: If it cannot be read.
    """
    suffix = Path(source).suffix
    if suffix not in _READERS:
        raise ValueError("SOURCE must be a .keras, .npz or .safetensors file")
    open_file(source).close()  # a missing file, a folder or a pipe is found here
    try:
        content = _READERS[suffix](source)
        if suffix == ".keras":
            return content
        return from_state_dict(content, image_size, mean, std)
    except Exception as error:  # damaged files and those of other programs fail in many ways
        reason = str(error).strip() or type(error).__name__
        raise ValueError(reason.splitlines()[0]) from error


def write(learner: keras.Model, target: str) -> None:
    """Writes a learner, its averaged encoder or its export.

    Args:
        learner: Any learner.
        target: A path. It ends in `.keras` for the learner and in `.weights.h5` for the averaged
            encoder; otherwise it is the folder of a SavedModel.

    Raises:
        ValueError: If the target's name ends like that of another kind of file.
        OSError: If it cannot be written.
    """
    if target.endswith(".weights.h5"):
        learner.ema_encoder.save_weights(target)
    elif target.endswith(".keras"):
        learner.save(target)
    elif Path(target).suffix in (".h5", ".npz", ".safetensors", ".pb"):
        raise ValueError("TARGET must be a .keras file, a .weights.h5 file or a folder")
    else:
        learner.export(target)


def from_state_dict(
    arrays: Mapping[str, np.ndarray],
    image_size: int = 32,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> DASO:
    """Makes a learner of the authors' network and its moving average.

    Args:
        arrays: Parameters and BatchNorm statistics by their PyTorch names, such as
            `encoder.unit1.0.layer.1.weight`. Names of the network may start with `model.`; those
            of its moving average start with `ema_model.`. The average may be missing.
        image_size: Side in pixels of the images that the network was trained on.
        mean: Mean of each color channel that the images were normalized with, in [0, 1].
        std: Standard deviation of each color channel that the images were normalized with.

    Returns:
        The learner. Its depth, width and number of classes follow from the arrays.

    Raises:
        ValueError: If names are missing or unknown, or an array has another shape.
    """
    network: dict[str, np.ndarray] = {}
    average: dict[str, np.ndarray] = {}
    for full_name, array in arrays.items():
        name = re.sub(r"^(module\.|model\.|ema_model\.)*", "", full_name)
        prefix = full_name.removesuffix(name)
        if not _UNUSED.match(name):
            (average if "ema_model." in prefix else network)[name] = array
    network, average = network or average, average or network

    first, classifier = "encoder.init_conv.weight", "classifier.classifier.weight"
    if missing := {first, classifier} - network.keys():
        raise ValueError(
            f"it is not a state dict of the authors' network: {', '.join(sorted(missing))} is not "
            f"among its {len(arrays)} arrays"
        )
    blocks = {match[1] for name in network if (match := re.match(r"encoder\.unit1\.(\d+)\.", name))}
    num_classes, features = network[classifier].shape
    if features % 64 or features // 64 > _WIDEST:
        raise ValueError(
            f"its features have {features} numbers; those of the authors' network have 64 to "
            f"{64 * _WIDEST}, a multiple of 64"
        )
    shape = (image_size, image_size, 3)
    encoder = wide_resnet(6 * len(blocks) + 4, features // 64, shape)
    learner = DASO(encoder, num_classes, mean=tuple(mean), std=tuple(std))
    for state, layers in (
        (network, (learner.encoder, learner.classifier)),
        (average, (learner.ema_encoder, learner.ema_classifier)),
    ):
        assign(pytorch_weights(*layers), state, encoder.name)
    return learner


def _read_learner(path: str) -> Classifier:
    model = load_model(path)
    if not isinstance(model, Classifier):
        raise ValueError(f"it holds a {type(model).__name__}, not a learner of daso_tf")
    return model


def _read_npz(path: str) -> dict[str, np.ndarray]:
    with ArrayFile(path) as file:
        return {name: file[name] for name in file.headers}


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    safetensors = import_extra("safetensors.numpy", "safetensors", "reading it")
    errors = import_extra("safetensors", "safetensors", "reading it")
    try:
        return safetensors.load_file(path)
    except errors.SafetensorError as error:
        raise ValueError(str(error)) from error


_READERS: dict[str, Callable[[str], Any]] = {
    ".keras": _read_learner,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}


def _channels(settings: Settings, name: str) -> tuple[float, ...]:
    """Returns the three numbers of a flag."""
    try:
        red, green, blue = map(float, settings[name].split(","))
    except ValueError:
        raise ValueError(
            f"--{name}={settings[name]} must be three numbers, such as {_text(CIFAR10_MEAN)}"
        ) from None
    return red, green, blue


def _text(channels: Sequence[float]) -> str:
    return ",".join(map(str, channels))


COMMAND = COMMANDS["convert"]
