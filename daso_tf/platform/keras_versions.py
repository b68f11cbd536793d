"""The one place that knows where Keras 2.15 and Keras 3 differ."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Sequence

import keras
import tensorflow as tf

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3


def scaled_normal(scale: float, mode: str) -> keras.initializers.Initializer:
    """Makes an initializer that draws weights from a normal distribution; one a layer.

    From the same `keras.utils.set_random_seed`, Keras 2 and Keras 3 draw other seeds for
    initializers that have none, but the same weights from a seed that is given. This one is drawn
    as Keras 3 does it.

    Args:
        scale: Variance times the number that `mode` names; 2 is He's, 1 is Glorot's.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
    """
    return keras.initializers.VarianceScaling(
        scale, mode, "untruncated_normal", seed=random.randint(1, 10**9)
    )


def write_archive(archive: keras.export.ExportArchive, directory: str) -> None:
    """Writes an export without a word; Keras prints its signatures, 3 unless told not to."""
    if KERAS_3:
        archive.write_out(directory, verbose=False)
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            archive.write_out(directory)


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[tf.Variable]
) -> None:
    """Makes everything that an optimizer remembers of the variables that it will train.

    Keras 2's legacy optimizers, which those of TensorFlow Addons are, have no public way to do so
    before the first step. Keras 3's `LossScaleOptimizer` would make its scale anew each time.
    """
    if _is_legacy(optimizer):
        optimizer._create_all_weights(variables)
    elif not getattr(optimizer, "built", False):
        optimizer.build(variables)


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns what an optimizer remembers, in one order, without its learning rate.

    Keras 3 counts the learning rate among its variables where it is a number, Keras 2 does not. Of
    a legacy optimizer that wraps another one, only `weights` holds what both remember. What a
    `LossScaleOptimizer` remembers itself is no part of it.
    """
    if scales_losses(optimizer):
        optimizer = optimizer.inner_optimizer
    learning_rate = optimizer.learning_rate
    variables = optimizer.weights if _is_legacy(optimizer) else optimizer.variables
    return [variable for variable in variables if variable is not learning_rate]


def _is_legacy(optimizer: keras.optimizers.Optimizer) -> bool:
    return not hasattr(optimizer, "build")


def scaled_loss(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Returns a loss times the scale of a `LossScaleOptimizer`; of another optimizer, as it is."""
    if not scales_losses(optimizer):
        return loss
    return optimizer.scale_loss(loss) if KERAS_3 else optimizer.get_scaled_loss(loss)


def unscaled_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Returns the gradients of a loss, given those of `scaled_loss`."""
    if not scales_losses(optimizer):
        return list(gradients)
    if not KERAS_3:
        return optimizer.get_unscaled_gradients(gradients)
    scale = optimizer.scale_loss(tf.constant(1.0))
    return [gradient / scale for gradient in gradients]


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
) -> None:
    """Applies gradients that are not scaled; Keras 3's `LossScaleOptimizer` expects scaled ones.

    They are those of the whole batch, on every replica of a distributed step: they are applied as
    they are, where Keras would sum them over the replicas.

    The scale is a power of two, so that nothing is lost on the way.
    """
    if KERAS_3 and scales_losses(optimizer):
        gradients = [optimizer.scale_loss(gradient) for gradient in gradients]
    pairs = zip(gradients, variables, strict=True)
    if _is_legacy(optimizer):
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    elif KERAS_3:
        inner = optimizer.inner_optimizer if scales_losses(optimizer) else optimizer
        inner._all_reduce_sum_gradients = list  # there is no public way
        optimizer.apply_gradients(pairs)
    else:
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def scales_losses(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer scales losses, and skips steps whose gradients float16 cannot hold."""
    return isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)


def loss_scale_variables(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns the scale of an optimizer that `scales_losses`, and how many steps it has held."""
    if not scales_losses(optimizer):
        return []
    if KERAS_3:
        return [optimizer.dynamic_scale, optimizer.step_counter]
    return [optimizer._loss_scale.current_loss_scale, optimizer.dynamic_counter]


def model_variables(model: keras.Model) -> list[tf.Variable]:
    """Returns what a model remembers, without its metrics, which Keras 2 counts among its layers.

    The order is that of the layers within, but a model's own variables come first in Keras 3 and
    last in Keras 2.
    """
    if KERAS_3:
        return list(model.variables)
    metrics = [part for part in model.submodules if isinstance(part, keras.metrics.Metric)]
    of_metrics = {id(variable) for metric in metrics for variable in metric.variables}
    return [variable for variable in model.variables if id(variable) not in of_metrics]


def own_name(variable: tf.Variable) -> str:
    """Returns a variable's name within its layer, which Keras 2 writes as `layer/name:0`."""
    return variable.name.split("/")[-1].split(":")[0]


def step_logs(model: keras.Model, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the logs of a step as Keras takes them.

    From many workers Keras 3 takes the mean along the first axis, which scalars do not have.
    """
    many_workers = isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not (KERAS_3 and many_workers):
        return logs
    return {name: value[None] for name, value in logs.items()}


def jit_compiles(model: keras.Model) -> bool:
    """Returns whether a model's steps are compiled by XLA."""
    return bool(model.jit_compile if KERAS_3 else model._jit_compile)


def train_on_batch(model: keras.Model, x, y, return_dict: bool):
    """Trains a step on arrays; Keras 2's own way refuses arrays of different lengths."""
    if KERAS_3:
        return keras.Model.train_on_batch(model, x, y, return_dict=return_dict)
    history = model.fit(tf.data.Dataset.from_tensors((x, y)), verbose=0).history
    logs = {name: values[-1] for name, values in history.items()}
    return logs if return_dict else list(logs.values())
