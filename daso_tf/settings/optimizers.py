"""Optimizers by name, and the learning rate over the steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.extras import import_extra
from daso_tf.platform.keras_versions import velocity_of

__all__ = ["OPTIMIZERS", "SGD", "WarmUp", "build", "learning_rate"]


class Choice(NamedTuple):
    """An optimizer as the command knows it.

    Attributes:
        make: Makes it from learning rate, momentum and weight decay.
        decoupled: Whether it decays the weights itself (Loshchilov and Hutter, "Decoupled Weight
            Decay Regularization", ICLR 2019); otherwise the learner adds L2 to the gradient.
    """

    make: Callable[[Any, float, float], keras.optimizers.Optimizer]
    decoupled: bool = False


def build(
    name: str, rate: float | LearningRateSchedule, momentum: float = 0.9, weight_decay: float = 0.0
) -> tuple[keras.optimizers.Optimizer, float]:
    """Makes an optimizer, and tells who decays the weights.

    Args:
        name: One of `OPTIMIZERS`.
        rate: Learning rate, a number above 0 or a schedule.
        momentum: Nesterov momentum; for `adam`, `adamw` and `lamb` the decay of the gradient's
            mean (beta 1). In [0, 1).
        weight_decay: At least 0. `sgdw` and `adamw` subtract `rate * weight_decay` of every weight
            at each step.

    Returns:
        The optimizer, and the `weight_decay` that the learner must add to the gradient: 0 for
        `sgdw` and `adamw`, otherwise the given one.

    Raises:
        ValueError: If there is no such optimizer, or it is one of TensorFlow Addons and that is not
            installed.

    Example:

    >>> optimizer, of_the_learner = build("adamw", 0.001, weight_decay=0.01)
    >>> optimizer.weight_decay, of_the_learner
    (0.01, 0.0)
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}.")
    choice = OPTIMIZERS[name]
    optimizer = choice.make(rate, momentum, weight_decay)
    return optimizer, 0.0 if choice.decoupled else weight_decay


@keras.saving.register_keras_serializable(package="daso_tf")
class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent in PyTorch's form: the learning rate is outside the velocity.

    With gradient g, momentum m and learning rate r, a step is

        v <- m v + g
        w <- w - r (g + m v)    with nesterov=True, else    w <- w - r v

    `keras.optimizers.SGD` has the learning rate inside the velocity. Both are the same while the
    learning rate is constant. When it drops, Keras's form continues at the old rate for some
    steps, and this form does not. The published runs of all methods use this form.

    Args:
        learning_rate: A number above 0 or a schedule.
        momentum: In [0, 1].
        nesterov: Whether to use Nesterov momentum.
        **kwargs: As for `keras.optimizers.SGD`, such as `weight_decay` (decoupled), `clipnorm` and
            `name`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> model.compile(SGD(0.03, momentum=0.9, nesterov=True))  # doctest: +SKIP

    Reference:
        Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
        2013, section 2; the form of `torch.optim.SGD`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **kwargs: Any,
    ):
        if isinstance(learning_rate, (int, float)):
            checked_number("learning_rate", learning_rate, above=0)
        momentum = checked_number("momentum", momentum, least=0, most=1)
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **kwargs)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any = None) -> None:
        """Updates a variable; Keras calls it.

        Args:
            gradient: The gradient.
            variable: The variable.
            learning_rate: The learning rate; Keras 2.15 does not give it.
        """
        rate = tf.cast(
            self.learning_rate if learning_rate is None else learning_rate, variable.dtype
        )
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        if not self.momentum:
            variable.assign_sub(rate * gradient)
            return
        velocity = velocity_of(self, variable)
        moved = self.momentum * tf.convert_to_tensor(velocity) + gradient
        velocity.assign(moved)
        variable.assign_sub(rate * (gradient + self.momentum * moved if self.nesterov else moved))


def learning_rate(
    rate: float,
    warmup_steps: int = 0,
    drops: Sequence[int] = (),
    drop: float = 0.01,
    cosine_steps: int = 0,
) -> float | LearningRateSchedule:
    """Returns a learning rate with warm-up and drops, as an optimizer takes it.

    Args:
        rate: The learning rate after the warm-up, above 0.
        warmup_steps: Number of steps in which it grows linearly from 0 to `rate`, at least 0.
        drops: Numbers of steps, ascending, after which the rate is multiplied by `drop`.
        drop: Factor of each drop, in (0, 1].
        cosine_steps: Number of steps in which the rate falls to 0 along half a cosine, instead of
            drops; 0 for none.

    Returns:
        The rate itself where it is constant, otherwise a schedule.

    Raises:
        ValueError: If the drops do not ascend.

    Example:

    >>> schedule = learning_rate(0.1, warmup_steps=10, drops=[200], drop=0.01)
    >>> [round(float(schedule(step)), 4) for step in (0, 9, 199, 200)]
    [0.0, 0.09, 0.1, 0.001]
    """
    if any(later <= earlier for earlier, later in zip([0, *drops], drops, strict=False)):
        raise ValueError(
            f"The steps of the learning rate's drops must ascend from 1, not {list(drops)}."
        )
    schedule: float | LearningRateSchedule = rate
    if cosine_steps:
        schedule = keras.optimizers.schedules.CosineDecay(rate, cosine_steps)
    elif drops:
        # Keras's boundaries are the last steps with the old value.
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
            [step - 1 for step in drops], [rate * drop**times for times in range(len(drops) + 1)]
        )
    return WarmUp(schedule, warmup_steps) if warmup_steps else schedule


@keras.saving.register_keras_serializable(package="daso_tf")
class WarmUp(LearningRateSchedule):
    """A learning rate that grows linearly from 0 in the first steps: `rate * min(t / steps, 1)`.

    Args:
        rate: The learning rate after that, a number above 0 or a schedule.
        steps: Number of these steps, at least 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> [round(float(WarmUp(0.1, steps=4)(step)), 3) for step in range(6)]
    [0.0, 0.025, 0.05, 0.075, 0.1, 0.1]

    Reference:
        Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2, "Gradual warmup".
    """

    def __init__(self, rate: float | LearningRateSchedule, steps: int):
        super().__init__()
        self.rate = rate if callable(rate) else checked_number("rate", rate, above=0)
        self.steps = checked_whole_number("steps", steps, least=1)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate of a step.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this schedule."""
        serialize = keras.saving.serialize_keras_object
        rate = serialize(self.rate) if callable(self.rate) else self.rate
        return {"rate": rate, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        """Creates the schedule from the result of `get_config`."""
        rate = config["rate"]
        if isinstance(rate, dict):
            rate = keras.saving.deserialize_keras_object(rate)
        return cls(rate, config["steps"])


def rate_of_version_1(optimizer: SGD, step: int) -> float:
    """Returns the learning rate that version 0.1 of this library used in a step.

    Its warm-up was `rate * min((t + 1) / steps, 1)`.

    Args:
        optimizer: The optimizer of the run.
        step: The number of the step, from 0.

    Example:

    >>> rate_of_version_1(SGD(WarmUp(0.1, steps=4)), step=0)
    0.025
    """
    schedule: Any = getattr(optimizer, "_learning_rate", optimizer.learning_rate)
    if isinstance(schedule, WarmUp):
        rate: Any = schedule.rate(step) if callable(schedule.rate) else schedule.rate
        return float(rate) * min((step + 1) / schedule.steps, 1.0)
    return float(schedule(step) if callable(schedule) else schedule)


def _sgd(rate, momentum, _):
    return SGD(rate, momentum, nesterov=True)


def _sgdw(rate, momentum, weight_decay):
    return SGD(rate, momentum, nesterov=True, weight_decay=weight_decay)


def _adam(rate, momentum, _):
    return keras.optimizers.Adam(rate, beta_1=momentum)


def _adamw(rate, momentum, weight_decay):
    return keras.optimizers.AdamW(rate, beta_1=momentum, weight_decay=weight_decay)


def _lamb(rate, momentum, _):
    """You et al., "Large Batch Optimization for Deep Learning", ICLR 2020, algorithm 2."""
    lamb = getattr(keras.optimizers, "Lamb", None) or _addons("lamb").LAMB
    return lamb(rate, beta_1=momentum, epsilon=1e-6)


def _lookahead_sgd(rate, momentum, _):
    """Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019."""
    lookahead = _addons("lookahead_sgd").Lookahead
    return lookahead(keras.optimizers.legacy.SGD(rate, momentum, nesterov=True))


def _addons(name: str) -> ModuleType:
    """Returns TensorFlow Addons' module of optimizers, for the optimizer of a name."""
    return import_extra(
        "tensorflow_addons.optimizers",
        "addons",
        f"the optimizer {name}",
        f"under Python 3.11, or choose another of {', '.join(OPTIMIZERS)}",
    )


OPTIMIZERS = {
    "sgd": Choice(_sgd),
    "adam": Choice(_adam),
    "adamw": Choice(_adamw, decoupled=True),
    "lamb": Choice(_lamb),
    "sgdw": Choice(_sgdw, decoupled=True),
    "lookahead_sgd": Choice(_lookahead_sgd),
}
