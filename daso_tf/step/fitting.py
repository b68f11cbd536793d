"""What `Learner.fit` adds to Keras's: checks of its arguments, and callbacks of its own."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from daso_tf.data.batches import Position, position_of
from daso_tf.step import inputs
from daso_tf.step.fresh_statistics import FreshStatistics, lagging_norms
from daso_tf.step.metrics import direction


def prepared(learner: Any, given: dict[str, Any], guard: inputs.Guard) -> dict[str, Any]:
    """Returns the arguments with which `keras.Model.fit` trains a learner.

    Args:
        learner: The `Learner`.
        given: The arguments of `Learner.fit`, by name.
        guard: Checks each batch before the step that would use it.

    Raises:
        ValueError: If an argument has no meaning here, or a batch is not as `Learner.fit` says.
    """
    inputs.check_fit_arguments(given)
    position = position_of(given.get("x"))
    if position is not None and position.images is not None:
        learner.keep_on_device(*position.images)
    return {
        **given,
        "callbacks": _callbacks(learner, given.get("callbacks"), position),
        "x": _batches(given, guard),
        "validation_data": _validation(given.get("validation_data"), guard),
    }


def _callbacks(learner: Any, given: Any, position: Position | None) -> Any:
    """Adds the learner's own callbacks; in place where they are a `CallbackList`."""
    listed = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else None
    if listed is None:
        listed = [] if given is None else list(tf.nest.flatten(given))
    for callback in listed:
        if getattr(callback, "mode", None) == "auto":  # Keras knows only its own metrics
            callback.mode = direction(callback.monitor) or "auto"
    if position is not None:
        if position.follows_learner:
            listed.append(_StartAtStep(position, learner))
        alone = learner.distribute_strategy.num_replicas_in_sync == 1
        if alone and any(lagging_norms(learner.encoder)):
            # Comes first, since the user's callbacks may evaluate.
            listed.insert(0, FreshStatistics(learner, position.batches_from))
    return given if isinstance(given, keras.callbacks.CallbackList) else listed


def _batches(given: dict[str, Any], guard: inputs.Guard) -> Any:
    x: Any = given.get("x")
    y = given.get("y")
    repeats = given.get("steps_per_epoch") and isinstance(x, tf.data.Dataset)
    if position_of(x) is None:  # else `from_arrays` or `load` has checked it
        x = guard.checked(inputs.training_parts, x, y)
        inputs.check_lengths(x, y)
    return x.repeat() if repeats else x


def _validation(given: Any, guard: inputs.Guard) -> Any:
    if given is None:
        return None
    if not isinstance(given, (tuple, list)):
        return guard.checked(inputs.evaluation_parts, given)
    images, labels = inputs.unpack(tuple(given))
    return guard.checked(inputs.evaluation_parts, images, labels), labels


class _StartAtStep(keras.callbacks.Callback):
    """Starts batches at the learner's step, once callbacks such as BackupAndRestore have set it."""

    def __init__(self, position: Position, learner: Any):
        super().__init__()
        self.position = position
        self.set_model(learner)  # a list that Keras did not make would not do it
        self._started = False

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the first step of the first epoch; the epochs after it continue."""
        if not self._started:
            self.position.next_step = int(self.model.step.numpy())
            self._started = True
