"""Where a training run can go on from: every variable of model and optimizer, in one file.

One file written beside its final name and then renamed is complete or absent, whatever stops the
process; the ZIP format's checksums tell when a disk damaged it later.
"""

import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np
from absl import logging

from daso_tf.platform.keras_versions import (
    build_optimizer,
    loss_scale_variables,
    model_variables,
    optimizer_variables,
    own_name,
)
from daso_tf.run.files import write_atomically

UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)


# A part that only training in float16 has; runs may change their precision.
LOSS_SCALE = "loss_scale"


class CheckpointError(ValueError):
    """Checkpoints are there, but none can be restored."""


class NonFiniteError(RuntimeError):
    """A loss or a variable is nan or infinite: training cannot usefully go on."""


class Checkpoints:
    """The newest few states of a training run, in a folder of `step_NNNNNNNN.npz` files.

    Args:
        directory: the folder; made at the first `save`.
        keep: how many checkpoints stay, newest first; at least 2, so that there is one to fall
            back to.

    Example:

    ```python
    checkpoints = Checkpoints("runs/digits_lt/checkpoints")
    checkpoints.restore(model)  # False in a new folder
    checkpoints.save(model)
    ```
    """

    def __init__(self, directory: str | Path, keep: int = 3):
        if keep < 2:
            raise ValueError(f"keep must be at least 2, but {keep} was given")
        self.directory = Path(directory)
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoint files, newest first."""
        return sorted(self.directory.glob("step_*.npz"), reverse=True)

    def save(self, model: keras.Model) -> Path:
        """Writes the model's and its optimizer's variables as they are after `model.step` steps.

        Args:
            model: a compiled learner.

        Returns:
            The file written.

        Raises:
            NonFiniteError: if a variable holds nan or infinity; nothing is written then.
        """
        arrays = {name: variable.numpy() for name, variable in _named_variables(model)}
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise NonFiniteError(
                    f"a variable of shape {array.shape} ({name}) holds nan or infinity"
                )
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step_{int(model.step.numpy()):08d}.npz"
        write_atomically(path, lambda file: np.savez(file, **arrays))
        for old in self.paths()[self.keep :]:
            old.unlink()
        return path

    def restore(self, model: keras.Model) -> bool:
        """Sets every variable to the newest checkpoint that can be read.

        Args:
            model: a compiled learner, made with the settings of the one saved.

        Returns:
            False if there is no checkpoint, and the model is as it was.

        Raises:
            CheckpointError: if there are checkpoints but none can be read.
        """
        return self._restore(dict(_named_variables(model)), whole=True)

    def restore_encoder(self, encoder: keras.Model) -> bool:
        """Sets an encoder to the averaged one of the newest checkpoint that can be read.

        Args:
            encoder: of the same architecture as that of the model saved.

        Returns:
            False if there is no checkpoint, and the encoder is as it was.

        Raises:
            CheckpointError: if there are checkpoints but none can be read.
        """
        weights = enumerate(encoder.weights)
        return self._restore({f"average/{i:04d}": weight for i, weight in weights}, whole=False)

    def _restore(self, variables, whole):
        for path in self.paths():
            try:
                arrays = _read(path, variables, whole)
            except UNREADABLE as error:
                logging.warning("%s cannot be read (%s); trying the one before", path, error)
                continue
            for name, array in arrays.items():
                variables[name].assign(array)
            return True
        if self.paths():
            raise CheckpointError(
                f"none of the {len(self.paths())} checkpoints in {self.directory} can be read;"
                " remove that folder to train from the beginning"
            )
        return False


def _named_variables(model):
    """Pairs of a name that is the same in every process and a variable.

    A name is a part of the run and a position: Keras numbers layers by process (`conv2d_7`), and
    its versions list a model's parts in different orders.
    """
    optimizer = model.optimizer
    build_optimizer(optimizer, model.trainable_variables)
    networks = {"network": model.network_weights, "average": model.ema_network_weights}
    in_networks = {id(variable) for part in networks.values() for variable in part}
    memory = [v for v in model_variables(model) if id(v) not in in_networks]
    parts = networks | {
        "memory": sorted(memory, key=own_name),
        "optimizer": optimizer_variables(optimizer),
        LOSS_SCALE: loss_scale_variables(optimizer),
    }
    for part, variables in parts.items():
        for position, variable in enumerate(variables):
            yield f"{part}/{position:04d}", variable
    if hasattr(optimizer.learning_rate, "assign"):  # a number, which callbacks may change
        yield "optimizer/learning_rate", optimizer.learning_rate


def _read(path, variables, whole):
    """Arrays of a checkpoint, checked against the variables they are for, all of it or a part."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if whole or name in variables}
    differing = arrays.keys() ^ variables.keys()
    for name in [name for name in differing if name.startswith(LOSS_SCALE)]:
        arrays.pop(name, None)
        differing.remove(name)
    if differing:
        differing = sorted(differing)
        raise ValueError(f"it holds other variables than this model: {', '.join(differing[:4])}")
    for name, array in arrays.items():
        if array.shape != tuple(variables[name].shape):
            raise ValueError(
                f"{name} has shape {array.shape}, the model's {tuple(variables[name].shape)}"
            )
    return arrays
