"""Optimizers by name, and the learning rate over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from daso_tf.platform.checks import checked_number, checked_whole_number
from daso_tf.platform.extras import import_extra
from daso_tf.platform.keras_versions import moments_of, velocity_of

__all__ = ["OPTIMIZERS", "SGD", "Adam", "Cosine", "WarmUp", "build", "learning_rate"]


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


@keras.saving.register_keras_serializable(package="daso_tf")
class Adam(keras.optimizers.Adam):
    """Adam in PyTorch's form: epsilon is added after the correction of the bias, as in the paper.

    With the mean m and the mean square v of the gradient at step t, counted from 1, a step is

        w <- w - r m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    `keras.optimizers.Adam` adds epsilon to the square root of v itself, which makes early steps
    smaller.

    Args:
        learning_rate: A number above 0 or a schedule.
        beta_1: Decay of the gradient's mean, in [0, 1).
        beta_2: Decay of its mean square, in [0, 1).
        epsilon: Is added to the denominator, above 0.
        **kwargs: As for `keras.optimizers.Adam`, such as `clipnorm` and `name`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> model.compile(Adam(0.0015))  # doctest: +SKIP

    Reference:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ):
        if isinstance(learning_rate, (int, float)):
            checked_number("learning_rate", learning_rate, above=0)
        beta_1 = checked_number("beta_1", beta_1, least=0, below=1)
        beta_2 = checked_number("beta_2", beta_2, least=0, below=1)
        epsilon = checked_number("epsilon", epsilon, above=0)
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any = None) -> None:
        """Updates a variable; Keras calls it.

        Args:
            gradient: The gradient.
            variable: The variable.
            learning_rate: The learning rate; Keras 2.15 does not give it.
        """
        dtype = variable.dtype
        rate = tf.cast(self.learning_rate if learning_rate is None else learning_rate, dtype)
        gradient = tf.cast(tf.convert_to_tensor(gradient), dtype)
        done = tf.cast(tf.convert_to_tensor(self.iterations) + 1, dtype)
        moments = []
        for moment, beta, value in zip(
            moments_of(self, variable),
            (self.beta_1, self.beta_2),
            (gradient, tf.square(gradient)),
            strict=True,
        ):
            moved = beta * tf.convert_to_tensor(moment) + (1.0 - beta) * value
            moment.assign(moved)
            moments.append(moved / (1.0 - tf.cast(beta, dtype) ** done))
        mean, mean_square = moments
        variable.assign_sub(rate * mean / (tf.sqrt(mean_square) + self.epsilon))


@keras.saving.register_keras_serializable(package="daso_tf")
class Cosine(LearningRateSchedule):
    """A learning rate that falls with the cosine to a fifth: `rate * cos(7 pi t / (16 steps))`.

    Args:
        rate: The learning rate at the first step, above 0.
        steps: Steps of the run, at least 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> [round(float(Cosine(0.1, steps=100)(step)), 4) for step in (0, 50, 100)]
    [0.1, 0.0773, 0.0195]

    Reference:
        Sohn et al., "FixMatch", NeurIPS 2020, section 2.4.
    """

    def __init__(self, rate: float, steps: int):
        super().__init__()
        self.rate = checked_number("rate", rate, above=0)
        self.steps = checked_whole_number("steps", steps, least=1)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate of a step.

        Args:
            step: int scalar, the number of steps done before this one.
        """
        done = tf.cast(step, tf.float32) / self.steps
        return self.rate * tf.cos(7.0 / 16.0 * math.pi * done)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of this schedule."""
        return {"rate": self.rate, "steps": self.steps}


# How the learning rate falls along a cosine, by the name of the flag's value.
COSINES: dict[str, Callable[[float, int], LearningRateSchedule]] = {
    "half": keras.optimizers.schedules.CosineDecay,
    "fixmatch": Cosine,
}


def learning_rate(
    rate: float,
    warmup_steps: int = 0,
    drops: Sequence[int] = (),
    drop: float = 0.01,
    cosine: str = "none",
    cosine_steps: int = 1,
) -> float | LearningRateSchedule:
    """Returns a learning rate with warm-up and drops, as an optimizer takes it.

    Args:
        rate: The learning rate after the warm-up, above 0.
        warmup_steps: Number of steps in which it grows linearly from 0 to `rate`, at least 0.
        drops: Numbers of steps, ascending, after which the rate is multiplied by `drop`.
        drop: Factor of each drop, in (0, 1].
        cosine: How the rate falls over `cosine_steps` instead of in drops: "half", along half a
            cosine to 0; "fixmatch", to a fifth, see `Cosine`; or "none".
        cosine_steps: Steps of the run, at least 1.

    Returns:
        The rate itself where it is constant, otherwise a schedule.

    Raises:
        ValueError: If the drops do not ascend, or the rate both drops and falls with the cosine.

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
    if cosine != "none":
        if drops:
            raise ValueError(
                "The learning rate falls with the cosine already: leave out its drops after steps "
                f"{list(drops)}."
            )
        schedule = COSINES[cosine](rate, cosine_steps)
    if drops:
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


def _pytorch_adam(rate, momentum, _):
    return Adam(rate, beta_1=momentum)


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
    "pytorch_adam": Choice(_pytorch_adam),
    "adamw": Choice(_adamw, decoupled=True),
    "lamb": Choice(_lamb),
    "sgdw": Choice(_sgdw, decoupled=True),
    "lookahead_sgd": Choice(_lookahead_sgd),
}
