"""The learning rate over the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule


def learning_rate(
    rate: float, warmup_steps: int = 0, drops: Sequence[int] = (), drop: float = 0.01
) -> float | LearningRateSchedule:
    """Makes what an optimizer takes as its learning rate.

    Args:
        rate: The learning rate after the warm-up, above 0.
        warmup_steps: Steps over which it grows linearly to that, at least 0.
        drops: Numbers of steps, ascending, after which the rate is multiplied by `drop`.
        drop: Factor of each drop, in (0, 1].

    Returns:
        The rate itself where it stays, otherwise a schedule.

    Raises:
        ValueError: If the drops do not ascend.

    Example:

    >>> schedule = learning_rate(0.1, warmup_steps=10, drops=[200], drop=0.01)
    >>> [round(float(schedule(step)), 4) for step in (0, 9, 199, 200)]
    [0.01, 0.1, 0.1, 0.001]
    """
    if any(later <= earlier for earlier, later in zip([0, *drops], drops, strict=False)):
        raise ValueError(f"The steps of the learning rate's drops must ascend from 1, not {drops}.")
    if drops:
        # Keras's boundaries are the last steps of the old value.
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [step - 1 for step in drops], [rate * drop**times for times in range(len(drops) + 1)]
        )
    return WarmUp(rate, warmup_steps) if warmup_steps else rate


@keras.saving.register_keras_serializable(package="daso_tf")
class WarmUp(LearningRateSchedule):
    """A learning rate that is reached linearly over the first steps.

    Args:
        rate: The learning rate from then on, a number or a schedule.
        steps: Steps until then, at least 1.

    Example:

    >>> round(float(WarmUp(0.1, steps=4)(1)), 3)  # the second step
    0.05

    Reference:
        Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2, "Gradual warmup".
    """

    def __init__(self, rate: float | LearningRateSchedule, steps: int):
        super().__init__()
        if steps < 1:
            raise ValueError(f"A warm-up must have at least 1 step, not {steps}.")
        self.rate = rate
        self.steps = int(steps)

    def __call__(self, step):
        """Returns the learning rate of the step with this number, from 0."""
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * tf.minimum((tf.cast(step, tf.float32) + 1) / self.steps, 1.0)

    def get_config(self):
        """Returns the arguments that make this schedule again."""
        serialize = keras.saving.serialize_keras_object
        rate = serialize(self.rate) if callable(self.rate) else self.rate
        return {"rate": rate, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        """Makes the schedule from what `get_config` gave back."""
        rate = config["rate"]
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate)
        return cls(rate, config["steps"])
