"""The differences between Keras 2.15 and Keras 3."""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3


def check_configuration() -> None:
    """Checks what is configured for Keras as a whole.

    Raises:
        ValueError: If Keras computes with another library than TensorFlow, or its weights are not
            float32.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras computes with {keras.backend.backend()}, but daso_tf needs TensorFlow: set "
            'KERAS_BACKEND="tensorflow" in the environment, before Keras is imported.'
        )
    if keras.backend.floatx() != "float32":
        raise ValueError(
            f"keras.config.floatx() is {keras.backend.floatx()}, but weights must be float32: "
            'call keras.backend.set_floatx("float32"). For speed, make the encoder with '
            'dtype="mixed_bfloat16" or "mixed_float16".'
        )


def scaled_normal(scale: float, mode: str) -> keras.initializers.Initializer:
    """Makes an initializer that draws weights from a normal distribution.

    Make a new one for each layer. After the same `keras.utils.set_random_seed`, initializers
    without a seed differ between Keras 2 and Keras 3, while initializers with the same seed draw
    the same weights. This one draws its seed the way Keras 3 does, under both.

    Args:
        scale: Variance times the number that `mode` names. 2 is He initialization, 1 is Glorot's.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.

    Example:

    >>> layer = keras.layers.Dense(4, kernel_initializer=scaled_normal(2.0, "fan_out"))
    """
    return keras.initializers.VarianceScaling(
        scale, mode, "untruncated_normal", seed=random.randint(1, 10**9)
    )


def write_archive(archive: keras.export.ExportArchive, directory: str) -> None:
    """Writes an export, without Keras's list of signatures and TensorFlow's name of the folder."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.WARNING)  # the folder is a temporary one
    try:
        if KERAS_3:
            archive.write_out(directory, verbose=False)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                archive.write_out(directory)
    finally:
        logger.setLevel(level)


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[tf.Variable]
) -> None:
    """Creates the variables of an optimizer, unless they exist.

    The legacy optimizers of Keras 2, which include those of TensorFlow Addons, have no public way
    to do so before the first step. The `LossScaleOptimizer` of Keras 3 would create its scale
    again at each call.
    """
    if _is_legacy(optimizer):
        optimizer._create_all_weights(variables)
    elif not getattr(optimizer, "built", False):
        optimizer.build(variables)


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns the variables of an optimizer in a fixed order, without the learning rate.

    Keras 3 counts a constant learning rate among the variables, Keras 2 does not. A legacy
    optimizer that wraps another one lists the variables of both only in `weights`. The variables
    of a `LossScaleOptimizer` itself are left out: see `loss_scale_variables`.
    """
    if scales_losses(optimizer):
        optimizer = optimizer.inner_optimizer
    learning_rate = optimizer.learning_rate
    variables = optimizer.weights if _is_legacy(optimizer) else optimizer.variables
    return [variable for variable in variables if variable is not learning_rate]


def velocity_of(optimizer: keras.optimizers.SGD, variable: Any) -> Any:
    """Returns the variable in which an SGD optimizer keeps the velocity of a variable."""
    if KERAS_3:
        return optimizer.momentums[optimizer._get_variable_index(variable)]
    return optimizer.momentums[optimizer._index_dict[optimizer._var_key(variable)]]


def moments_of(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[Any, Any]:
    """Returns the variables of Adam for a variable: the gradient's mean and its mean square."""
    if KERAS_3:
        index = optimizer._get_variable_index(variable)
    else:
        index = optimizer._index_dict[optimizer._var_key(variable)]
    return optimizer._momentums[index], optimizer._velocities[index]


def _is_legacy(optimizer: keras.optimizers.Optimizer) -> bool:
    return not hasattr(optimizer, "build")


def scaled_loss(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Multiplies a loss by the scale of a `LossScaleOptimizer`, if the optimizer is one."""
    if not scales_losses(optimizer):
        return loss
    return optimizer.scale_loss(loss) if KERAS_3 else optimizer.get_scaled_loss(loss)


def unscaled_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Returns the gradients of a loss, given the gradients of its `scaled_loss`."""
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
    """Applies the gradients of the whole batch, which every replica has, without scaling them.

    Keras would sum them over the replicas, and the `LossScaleOptimizer` of Keras 3 would divide
    them by its scale. The scale is a power of two, so multiplying by it first loses nothing.

    Args:
        optimizer: Any optimizer whose variables exist (`build_optimizer`).
        gradients: One per variable, the same on every replica.
        variables: The variables to update.
    """
    if KERAS_3 and scales_losses(optimizer):
        gradients = [optimizer.scale_loss(gradient) for gradient in gradients]
    pairs = zip(gradients, variables, strict=True)
    if _is_legacy(optimizer):
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    elif KERAS_3:
        inner = optimizer.inner_optimizer if scales_losses(optimizer) else optimizer
        with _without_sum_over_replicas(inner):
            optimizer.apply_gradients(pairs)
    else:
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


@contextlib.contextmanager
def _without_sum_over_replicas(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Makes a Keras 3 optimizer take gradients as they are. Keras has no public way to do so.

    Replicas may be threads that share the optimizer and are inside at the same time. The first one
    to leave restores the method for all. This is safe: Keras sums before it updates the variables,
    and it updates them only when all replicas have reached that point.
    """
    attributes = vars(optimizer)
    attributes["_all_reduce_sum_gradients"] = list  # hides the method of the class
    try:
        yield
    finally:
        attributes.pop("_all_reduce_sum_gradients", None)


def scales_losses(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether an optimizer scales losses and skips steps with gradients that overflow."""
    return isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)


def rate_of(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns the learning rate of the step that an optimizer is about to do, float32 scalar.

    Keras 2.15 itself updates the value of a schedule only within a step.
    """
    inner = optimizer.inner_optimizer if scales_losses(optimizer) else optimizer
    rate = getattr(inner, "_learning_rate", inner.learning_rate)
    return tf.cast(rate(inner.iterations) if callable(rate) else rate, tf.float32)


def loss_scale_variables(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Returns the loss scale of an optimizer and the number of steps since it changed, if any."""
    if not scales_losses(optimizer):
        return []
    if KERAS_3:
        return [optimizer.dynamic_scale, optimizer.step_counter]
    return [optimizer._loss_scale.current_loss_scale, optimizer.dynamic_counter]


def model_variables(model: keras.Model) -> list[tf.Variable]:
    """Returns the variables of a model without those of its metrics.

    Keras 2 counts metrics among the layers. The order is that of the layers, but the variables
    that belong to the model itself come first in Keras 3 and last in Keras 2.
    """
    if KERAS_3:
        return list(model.variables)
    metrics = [part for part in model.submodules if isinstance(part, keras.metrics.Metric)]
    of_metrics = {id(variable) for metric in metrics for variable in metric.variables}
    return [variable for variable in model.variables if id(variable) not in of_metrics]


def layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields all layers of a model, those inside other layers too, each once.

    Keras has no public way to look into a layer that consists of others.
    """
    seen: set[int] = set()
    for layer in model._flatten_layers(include_self=False):
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer


def own_name(variable: tf.Variable) -> str:
    """Returns the name of a variable within its layer; Keras 2 calls it `layer/name:0`."""
    return variable.name.split("/")[-1].split(":")[0]


def step_logs(model: keras.Model, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the logs of a step in the form that `keras.Model.fit` expects.

    With many workers, Keras 3 averages them along their first axis, so scalars need one.
    """
    many_workers = isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not (KERAS_3 and many_workers):
        return logs
    return {name: value[None] for name, value in logs.items()}


def jit_compiles(model: keras.Model) -> bool:
    """Returns whether XLA compiles the steps of a model."""
    return bool(model.jit_compile if KERAS_3 else model._jit_compile)


def train_on_batch(
    model: keras.Model, x: Any, y: Any, return_dict: bool
) -> float | list[float] | dict[str, float]:
    """Trains one step on arrays, which may differ in length; Keras 2 itself refuses that."""
    if KERAS_3:
        return keras.Model.train_on_batch(model, x, y, return_dict=return_dict)
    history = model.fit(tf.data.Dataset.from_tensors((x, y)), verbose=0).history
    logs = {name: values[-1] for name, values in history.items()}
    return logs if return_dict else list(logs.values())
