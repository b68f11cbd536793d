"""Converts trained networks: `python -m daso_tf.convert SOURCE TARGET`.

SOURCE is a model or one of the authors' PyTorch checkpoints:

    *.keras                    a learner, saved by this version of Keras or, under Keras 3, by 2.15
    *.npz, *.safetensors       a state dict of the authors' wide residual network

TARGET says by its name what is written:

    *.keras                    a learner, for `keras.saving.load_model`
    *.weights.h5               its averaged encoder, for `--encoder_weights` of a new run
    anything else              a folder, with a SavedModel of the averaged network

Exit code: 0 written, 2 SOURCE or TARGET cannot be used.

The checkpoints of a run, exported SavedModels and `*.weights.h5` files of encoders need no
conversion: either version of Keras reads what the other wrote.

The authors' checkpoints hold a network and its moving average, under the names `model` and
`ema_model`. Where PyTorch is, this writes the file to convert:

    saved = torch.load("model_final.pth.tar", map_location="cpu")
    arrays = {
        f"{part}.{name}": value.numpy()
        for part in ("model", "ema_model")
        for name, value in saved[part].items()
    }
    numpy.savez("model_final.npz", **arrays)

The state dict of one network alone can be converted too; its average is then the network itself.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from absl import flags

import daso_tf
from daso_tf.commands import terminal
from daso_tf.encoders.pytorch_names import assign, pytorch_weights
from daso_tf.platform.keras_2_models import load_model
from daso_tf.step.averaged_network import CIFAR10_MEAN, CIFAR10_STD

FLAGS = flags.FLAGS
flags.DEFINE_integer("image_size", 32, "State dict: side in pixels that it was trained on.", 8)
flags.DEFINE_list(
    "image_mean",
    [str(value) for value in CIFAR10_MEAN],
    "State dict: mean of each colour channel that images were normalised with, in [0, 1].",
)
flags.DEFINE_list(
    "image_std",
    [str(value) for value in CIFAR10_STD],
    "State dict: standard deviation of each colour channel.",
)

# Heads that only training needs.
_UNUSED = re.compile(r"projection\.")


def main(argv: list[str]) -> int:
    """Converts one file.

    Args:
        argv: the program's name, SOURCE and TARGET.

    Returns:
        The exit code.
    """
    if len(argv) != 3:
        return terminal.fail("give what to convert and what to write: SOURCE TARGET")
    source, target = argv[1:]
    try:
        write(read(source), target)
    except (ValueError, OSError) as error:
        return terminal.fail(f"{source} cannot be converted to {target}: {error}")
    print(f"{target} is written.")
    return 0


def read(source: str) -> keras.Model:
    """Makes the learner that a file holds.

    Args:
        source: Path of a `.keras` file, or of a state dict as `.npz` or `.safetensors`.

    Returns:
        A learner; from a state dict a `daso_tf.DASO`, whose queues and histogram are empty.

    Raises:
        ValueError: If the file holds something else.
        OSError: If it cannot be read.
    """
    suffix = Path(source).suffix
    if suffix == ".keras":
        return load_model(source)
    if suffix == ".npz":
        with np.load(source, allow_pickle=False) as archive:
            arrays = dict(archive)
    elif suffix == ".safetensors":
        arrays = _read_safetensors(source)
    else:
        raise ValueError("what is converted is a .keras, .npz or .safetensors file")
    return from_state_dict(
        arrays,
        FLAGS.image_size,
        mean=[float(value) for value in FLAGS.image_mean],
        std=[float(value) for value in FLAGS.image_std],
    )


def write(learner: keras.Model, target: str) -> None:
    """Writes a learner, its encoder or its export.

    Args:
        learner: Any learner.
        target: Path; `.keras` and `.weights.h5` at its end say what, otherwise it is a folder.

    Raises:
        ValueError: If the target's name ends like that of another kind of file.
        OSError: If it cannot be written.
    """
    if target.endswith(".weights.h5"):
        learner.ema_encoder.save_weights(target)
    elif target.endswith(".keras"):
        learner.save(target)
    elif Path(target).suffix in (".h5", ".npz", ".safetensors", ".pb"):
        raise ValueError("what is written is a .keras file, a .weights.h5 file or a folder")
    else:
        learner.export(target)


def from_state_dict(
    arrays: Mapping[str, np.ndarray],
    image_size: int = 32,
    mean: tuple[float, float, float] = CIFAR10_MEAN,
    std: tuple[float, float, float] = CIFAR10_STD,
) -> daso_tf.DASO:
    """Makes a learner of the authors' network, and of its moving average if that is there.

    Args:
        arrays: Parameters and BatchNorm statistics by their PyTorch names, such as
            `encoder.unit1.0.layer.1.weight`, after `model.` or nothing for the network, and after
            `ema_model.` for its average.
        image_size: Side in pixels of the images that the network was trained on.
        mean: Mean of each colour channel that they were normalised with, in [0, 1].
        std: Standard deviation of each colour channel that they were normalised with.

    Returns:
        The learner; depth, width and classes follow from the arrays.

    Raises:
        ValueError: If names are missing or unknown, or an array has another shape.
    """
    network, average = {}, {}
    for name, array in arrays.items():
        prefix, name = re.fullmatch(r"((?:module\.|model\.|ema_model\.)*)(.*)", name).groups()
        if not _UNUSED.match(name):
            (average if "ema_model." in prefix else network)[name] = array
    network, average = network or average, average or network

    first, classifier = "encoder.init_conv.weight", "classifier.classifier.weight"
    if missing := {first, classifier} - network.keys():
        raise ValueError(
            f"it is no state dict of the authors' network: {', '.join(sorted(missing))} is not "
            f"among its {len(arrays)} arrays"
        )
    blocks = {match[1] for name in network if (match := re.match(r"encoder\.unit1\.(\d+)\.", name))}
    num_classes, features = network[classifier].shape
    shape = (image_size, image_size, 3)
    encoder = daso_tf.encoders.wide_resnet(6 * len(blocks) + 4, features // 64, shape)
    learner = daso_tf.DASO(encoder, num_classes, mean=mean, std=std)
    for state, layers in (
        (network, (learner.encoder, learner.classifier)),
        (average, (learner.ema_encoder, learner.ema_classifier)),
    ):
        assign(pytorch_weights(*layers), state, encoder.name)
    return learner


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ValueError(
            "reading it takes daso_tf[safetensors]: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
