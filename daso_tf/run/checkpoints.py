"""The states from which a run can continue: all variables of model and optimizer, in one file.

A file is written under another name and then renamed, so it is complete or absent. The checksums of
the ZIP format show later damage. A file that only has such a name is neither restored nor deleted.
While a run trains, files are written in the background: `start_saving` copies the variables, and
all that reads files waits until they are written.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from daso_tf.platform import replicas
from daso_tf.platform.background import Background
from daso_tf.platform.files import write_atomically
from daso_tf.platform.keras_versions import (
    build_optimizer,
    loss_scale_variables,
    model_variables,
    optimizer_variables,
    own_name,
    scales_losses,
)
from daso_tf.platform.npz import ArrayFile
from daso_tf.run.data_file import UnlabeledImages, as_number, as_text
from daso_tf.settings.optimizers import SGD, rate_of_version_1

# `save` writes at least eight digits, and more only where the number has more.
_NAME = re.compile(r"step_(\d{8}|[1-9]\d{8,})\.npz")
# Only training in float16 has this part; a run may change its precision.
LOSS_SCALE = "loss_scale"
# What the metrics have counted since the last evaluation; version 0.1 did not write it.
METRICS = "metrics"
# The version of the files. Version 0.1 of the library wrote none; its files count as 1.
VERSION, VERSION_NAME = 2, "version"
# The fingerprint of the unlabeled images, to which entries of memories belong; see `data_file`.
UNLABELED_NAME = "unlabeled"


class CheckpointError(ValueError):
    """There are checkpoints, but none can be restored."""


class NonFiniteError(RuntimeError):
    """A loss or a variable is nan or infinite, so that training cannot continue."""


class Checkpoints:
    """The newest states of a training run, in a folder of `step_NNNNNNNN.npz` files.

    Args:
        directory: The folder; created by the first `save`.
        keep: Number of checkpoints to keep, at least 2, so that one remains if the newest is
            damaged.
        unlabeled: The unlabeled images of the run, now and before; None where they never change.

    Raises:
        ValueError: If `keep` is below 2.

    Example:

    ```python
    checkpoints = Checkpoints("runs/digits_lt/checkpoints")
    checkpoints.restore(model)  # False in a new folder
    checkpoints.save(model)
    ```
    """

    def __init__(
        self, directory: str | Path, keep: int = 3, unlabeled: UnlabeledImages | None = None
    ):
        if keep < 2:
            raise ValueError(f"keep must be at least 2, not {keep}.")
        self.directory = Path(directory)
        self.keep = keep
        self.unlabeled = unlabeled
        self._background = Background()

    def paths(self) -> list[Path]:
        """The files that are named like checkpoints, newest first."""
        self.wait()
        files = self.directory.glob("step_*.npz")
        named = [path for path in files if _NAME.fullmatch(path.name) and path.is_file()]
        return sorted(named, key=_step_of, reverse=True)

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, the newest first."""
        return [_step_of(path) for path in self.paths()]

    def newest_step(self) -> int:
        """Returns the number of steps of the newest checkpoint; 0 where there is none."""
        return max(self.steps(), default=0)

    def save(
        self,
        model: keras.Model,
        write: bool = True,
        best_until: Callable[[int], int | None] = lambda step: None,
    ) -> Path:
        """Writes the variables of the model, of its optimizer and of its metrics.

        Args:
            model: A compiled learner, after `model.step` steps.
            write: Whether this process writes the file. Other workers only take part: what the
                metrics count is in all of them.
            best_until: Returns the best step until a step, whose checkpoint is kept, too. Should a
                newer checkpoint turn out to be damaged, the best one until the others is there.

        Returns:
            The file that was written.

        Raises:
            NonFiniteError: If a variable contains nan or infinity; nothing is written then.
            OSError: If it cannot be written; the checkpoints before it are then still there.
        """
        path = self.start_saving(model, write, best_until)
        self.wait()
        return path

    def start_saving(
        self,
        model: keras.Model,
        write: bool = True,
        best_until: Callable[[int], int | None] = lambda step: None,
    ) -> Path:
        """Copies what `save` writes, and lets a thread in the background write it.

        It first waits for the checkpoint before, so that there is at most one copy.

        Args:
            model: See `save`.
            write: See `save`.
            best_until: See `save`.

        Returns:
            The file that will be written.

        Raises:
            NonFiniteError: See `save`.
            OSError: If the checkpoint before could not be written; this one is then not written.
        """
        self.wait()
        metrics = {
            name: np.array(tf.convert_to_tensor(variable))
            for name, variable in _metric_variables(model).items()
        }
        step = int(model.step.numpy())
        path = self.directory / f"step_{step:08d}.npz"
        if not write:
            return path
        # `numpy` returns copies: the next steps change the variables.
        arrays = {name: variable.numpy() for name, variable in _named_variables(model)} | metrics
        arrays[VERSION_NAME] = np.array(VERSION)
        if self.unlabeled is not None:
            arrays[UNLABELED_NAME] = as_number(self.unlabeled.fingerprint)
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise NonFiniteError(
                    f"a variable of shape {array.shape} ({name}) contains nan or infinity"
                )
        self.directory.mkdir(parents=True, exist_ok=True)
        earlier = [file for file in self.paths() if _step_of(file) < step]
        own = [path, *earlier]  # the newest first
        best = {best_until(_step_of(file)) for file in own[: self.keep]}
        old = [file for file in own[self.keep :] if _step_of(file) not in best]
        self._background.start(lambda: _write(path, arrays, old))
        return path

    def check(self) -> None:
        """Raises the error of a checkpoint that could not be written; waits for nothing.

        Raises:
            OSError: If `start_saving` could not write it.
        """
        self._background.check()

    def wait(self) -> None:
        """Returns when the checkpoint that `start_saving` copied is written.

        Raises:
            OSError: If it cannot be written; the checkpoints before it are then still there.
        """
        self._background.wait()

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Waits at the end of the context, also after an error: none may be lost.

        Raises:
            OSError: See `wait`.
        """
        try:
            yield
        finally:
            self.wait()

    def restore(
        self, model: keras.Model, step: int | None = None, resized_after: float = math.inf
    ) -> bool:
        """Sets every variable to the newest checkpoint that can be read.

        Args:
            model: A compiled learner with the settings of the saved one.
            step: The step whose checkpoint is restored instead; no other one is tried.
            resized_after: The step after which a memory may have another size in the file; it is
                then left as it is. Later generations learn from more labeled images.

        Returns:
            False if there is no checkpoint; the model is unchanged then.

        Raises:
            CheckpointError: If there are checkpoints but none can be read, or not that of `step`.
        """
        paths = self.paths()
        if step is not None:
            paths = [path for path, of in zip(paths, self.steps(), strict=True) if of == step]
            if not paths:
                raise CheckpointError(
                    f"{self.directory} has no checkpoint of step {step}; it has those of "
                    f"{', '.join(map(str, self.steps())) or 'no step'}"
                )
        version = self._restore(
            paths,
            lambda version: dict(_named_variables(model, version)) | _metric_variables(model),
            whole=True,
            step=model.step,
            memories={id(variable) for variable in _image_memories(model)},
            strategy=model.distribute_strategy,
            resized_after=resized_after,
        )
        if version and version < 2:
            _convert_velocity(model)
        return bool(version)

    def restore_encoder(self, encoder: keras.Model) -> bool:
        """Sets an encoder to the averaged one of the newest checkpoint that can be read.

        Args:
            encoder: An encoder of the same architecture as the saved one.

        Returns:
            False if there is no checkpoint; the encoder is unchanged then.

        Raises:
            CheckpointError: If there are checkpoints but none can be read.
        """
        weights = enumerate(encoder.weights)
        variables = {f"average/{i:04d}": weight for i, weight in weights}
        return bool(self._restore(self.paths(), lambda _: variables, whole=False))

    def _restore(
        self,
        paths: Sequence[Path],
        variables_of: Callable[[int], dict[str, tf.Variable]],
        whole: bool,
        step: tf.Variable | None = None,
        memories: Collection[int] = (),
        strategy: tf.distribute.Strategy | None = None,
        resized_after: float = math.inf,
    ) -> int:
        """Sets variables to the first file that can be read; returns its version, 0 for none."""
        reasons = []
        for path in paths:
            try:
                version, variables, arrays = _read(
                    path, variables_of, whole, memories, self.unlabeled, resized_after
                )
                _check_step(path, step, variables, arrays)
            except Exception as error:  # a damaged or foreign file fails in many ways
                reasons.append(f"{path} cannot be read ({str(error) or type(error).__name__})")
                if len(paths) > 1:
                    logging.warning("%s; trying the previous one", reasons[-1])
                continue
            counted = [name for name in arrays if name.startswith(METRICS)]
            for name in arrays.keys() - counted:
                variables[name].assign(arrays[name])
            if strategy is not None:
                of_metrics = [variables[name] for name in counted]
                replicas.set_sums(strategy, of_metrics, [arrays[name] for name in counted])
            return version
        if len(paths) == 1 < len(self.paths()):
            raise CheckpointError(reasons[0])
        if paths:
            raise CheckpointError(
                f"none of the {len(self.paths())} checkpoints in {self.directory} can be read;"
                " remove that folder to train from the beginning"
            )
        return 0


def _write(path: Path, arrays: dict[str, Any], old: Sequence[Path]) -> None:
    """Writes a checkpoint, and then removes older ones, but no foreign files."""
    write_atomically(path, lambda file: np.savez(file, **arrays))
    for file in filter(_is_checkpoint, old):
        file.unlink(missing_ok=True)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _check_step(
    path: Path,
    step: tf.Variable | None,
    variables: dict[str, tf.Variable],
    arrays: dict[str, np.ndarray],
) -> None:
    """Refuses a renamed copy, which would be restored again and again."""
    saved = [int(arrays[name]) for name, variable in variables.items() if variable is step]
    if saved and saved[0] != _step_of(path):
        raise ValueError(f"it was saved after step {saved[0]}")


def _is_checkpoint(path: Path) -> bool:
    """Whether a file has the arrays of a checkpoint, and not only the name of one."""
    try:
        with ArrayFile(path) as file:
            return any(name.startswith("network/") for name in file.headers)
    except Exception:  # a damaged or foreign file fails in many ways
        return False


def _named_variables(
    model: keras.Model, version: int = VERSION
) -> Iterator[tuple[str, tf.Variable]]:
    """Yields pairs of a name, which is the same in every process, and a variable.

    A name consists of a part of the run and a position: Keras numbers layers per process
    (`conv2d_7`), and its versions list the parts of a model in different orders.
    """
    optimizer = model.optimizer
    build_optimizer(optimizer, model.trainable_variables)
    networks = {"network": model.network_weights, "average": model.ema_network_weights}
    in_networks = {id(variable) for part in networks.values() for variable in part}
    frozen = model.network.frozen  # stays as it was built
    in_networks |= {id(variable) for variable in (frozen.variables if frozen else ())}
    memory = [v for v in model_variables(model) if id(v) not in in_networks]
    if version < 2:
        new = _new_in_version_2(model)
        memory = [variable for variable in memory if id(variable) not in new]
    parts = networks | {
        "memory": sorted(memory, key=own_name),
        "optimizer": optimizer_variables(optimizer),
        LOSS_SCALE: loss_scale_variables(optimizer),
    }
    for part, variables in parts.items():
        for position, variable in enumerate(variables):
            yield f"{part}/{position:04d}", variable
    if hasattr(optimizer.learning_rate, "assign"):  # a number that callbacks may change
        yield "optimizer/learning_rate", optimizer.learning_rate


def _metric_variables(model: keras.Model) -> dict[str, tf.Variable]:
    """Returns the variables of the training metrics, by a name that is the same in every process.

    A checkpoint between two evaluations needs them: the next evaluation reports all steps since the
    last one.
    """
    return {
        f"{METRICS}/{metric.name}/{position}": variable
        for metric in model.metrics
        for position, variable in enumerate(metric.variables)
    }


def _new_in_version_2(model: keras.Model) -> set[int]:
    """Returns the variables of memories that version 1 did not have; they keep initial values."""
    new = [] if model.threshold is None else model.threshold.weights
    new = [v for v in new if own_name(v) in ("class_values", "epoch", "mean_prediction")]
    memory = getattr(model, "balanced_memory", None)
    return {id(variable) for variable in (*new, *(memory.weights if memory is not None else ()))}


def _convert_velocity(model: keras.Model) -> None:
    """Converts the velocity of `keras.optimizers.SGD`, which version 0.1 used, to that of `SGD`.

    Keras's velocity contains the learning rate: it is -lr times the other one. The rate is that of
    the last step that was done.
    """
    optimizer = model.optimizer
    if scales_losses(optimizer):
        optimizer = optimizer.inner_optimizer
    steps = int(optimizer.iterations.numpy())
    if not isinstance(optimizer, SGD) or not optimizer.momentum or not steps:
        return
    rate = rate_of_version_1(optimizer, steps - 1)
    for velocity in optimizer.momentums:
        velocity.assign(-tf.convert_to_tensor(velocity) / rate)
    logging.warning(
        "the velocity of the optimizer was converted from Keras's form (learning rate %g)", rate
    )


def _image_memories(model: keras.Model) -> list[tf.Variable]:
    """Returns the variables with one entry per unlabeled image."""
    parts = [part for part in (model.threshold, model.pseudo_labeler) if part is not None]
    return [variable for part in parts for variable in part.image_memories()]


def _carried_over(memory: np.ndarray, before: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Returns a memory with its entries in another order.

    Args:
        memory: An entry per unlabeled image, as saved.
        before: int64 `(N,)`, where the entry of each present image is in it; -1 for a new image.
        initial: The initial memory of the present images.
    """
    if before.max(initial=-1) >= len(memory) or len(before) != len(initial):
        raise ValueError(f"a memory has {len(memory)} entries, not one per unlabeled image")
    carried = initial.copy()
    carried[before >= 0] = memory[before[before >= 0]]
    return carried


def _read(
    path: Path,
    variables_of: Callable[[int], dict[str, tf.Variable]],
    whole: bool,
    memories: Collection[int] = (),
    unlabeled: UnlabeledImages | None = None,
    resized_after: float = math.inf,
) -> tuple[int, dict[str, tf.Variable], dict[str, np.ndarray]]:
    """Returns a checkpoint's version, the variables for it, and its arrays, checked by these."""
    with ArrayFile(path) as file:
        version = int(file[VERSION_NAME]) if VERSION_NAME in file.headers else 1
        variables = variables_of(version)
        fingerprint = as_text(file[UNLABELED_NAME]) if UNLABELED_NAME in file.headers else None
        names = {name for name in file.headers if whole or name in variables}
        names -= {VERSION_NAME, UNLABELED_NAME}
        differing = names ^ variables.keys()
        optional = {name for name in differing if name.startswith((LOSS_SCALE, METRICS))}
        if differing - optional:
            named = ", ".join(sorted(differing - optional)[:4])
            raise ValueError(f"it contains other variables than this model: {named}")
        before = unlabeled.positions_in(fingerprint) if memories and unlabeled is not None else None
        arrays = {}
        for name in sorted(names - optional):
            found, variable = file.headers[name], variables[name]
            if found.dtype != tf.as_dtype(variable.dtype).as_numpy_dtype:
                raise ValueError(
                    f"{name} has type {found.dtype}, the model's {tf.as_dtype(variable.dtype).name}"
                )
            if before is not None and id(variable) in memories:
                arrays[name] = _carried_over(file[name], before, variable.numpy())
                continue
            if found.shape != tuple(variable.shape):
                if _step_of(path) > resized_after and name.startswith("memory/"):
                    file[name]  # finds damage, as in all others
                    continue
                if version < 2 and name.startswith("memory/"):  # USADTM's queues had another size
                    logging.warning("a memory of another size starts empty")
                    continue
                raise ValueError(
                    f"{name} has shape {found.shape}, the model's {tuple(variable.shape)}"
                )
            arrays[name] = file[name]
    return version, variables, arrays
