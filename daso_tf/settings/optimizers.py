"""What turns gradients into steps: Keras's optimizers, and TensorFlow Addons' where it has none."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import keras

from daso_tf.platform.extras import import_extra
from daso_tf.settings.learning_rate import LearningRateSchedule


class Choice(NamedTuple):
    """An optimizer as the command knows it.

    Attributes:
        make: Makes it of learning rate, momentum and weight decay.
        decoupled: Whether it decays the weights itself (Loshchilov and Hutter, "Decoupled Weight
            Decay Regularization", ICLR 2019); otherwise the learner adds L2 to the gradient.
    """

    make: Callable[[float | LearningRateSchedule, float, float], keras.optimizers.Optimizer]
    decoupled: bool = False


def build(
    name: str, rate: float | LearningRateSchedule, momentum: float = 0.9, weight_decay: float = 0.0
) -> tuple[keras.optimizers.Optimizer, float]:
    """Makes the optimizer of a name, and says who decays the weights.

    Args:
        name: One of `OPTIMIZERS`.
        rate: Learning rate, a number above 0 or a schedule.
        momentum: Nesterov momentum; with `adam`, `adamw` and `lamb` the decay of the gradient's
            mean (beta 1). In [0, 1).
        weight_decay: At least 0. `sgdw` and `adamw` take `rate * weight_decay` of every weight off
            at each step.

    Returns:
        The optimizer, and the `weight_decay` that is left for the learner to add to the gradient:
        0 for `sgdw` and `adamw`, otherwise what was given.

    Raises:
        ValueError: If there is no such optimizer, or it is one of TensorFlow Addons and that is not
            installed.

    Example:

    >>> optimizer, left_to_the_learner = build("adamw", 0.001, weight_decay=0.01)
    >>> optimizer.weight_decay, left_to_the_learner
    (0.01, 0.0)
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}.")
    choice = OPTIMIZERS[name]
    optimizer = choice.make(rate, momentum, weight_decay)
    return optimizer, 0.0 if choice.decoupled else weight_decay


def _sgd(rate, momentum, _):
    return keras.optimizers.SGD(rate, momentum=momentum, nesterov=True)


def _sgdw(rate, momentum, weight_decay):
    return keras.optimizers.SGD(rate, momentum, nesterov=True, weight_decay=weight_decay)


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
