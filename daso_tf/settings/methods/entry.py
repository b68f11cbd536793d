"""An entry names the class of a method, and where each of its arguments comes from.

What makes arguments imports what it needs: so a command can show its help, or refuse a flag,
without importing TensorFlow.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from daso_tf.data import BankedData, SemiSupervisedData
from daso_tf.settings.flag import Flag
from daso_tf.settings.settings import Settings


class Context(NamedTuple):
    """What the arguments of a method may depend on.

    Attributes:
        settings: The settings of the command.
        data: What the learner will be trained on.
        labeled_counts: Labeled images per class, pseudo-labeled ones of self-training included.
        alignment_temperature: Of the present generation of CReST+, in [0, 1].
        generation_steps: Steps of the present generation; of the run without self-training.
        bank: The feature bank of the run whose network is fine-tuned on images; otherwise None.
    """

    settings: Settings
    data: SemiSupervisedData
    labeled_counts: list[int]
    alignment_temperature: float
    generation_steps: int
    bank: BankedData | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return self.data.num_classes


class Computed(NamedTuple):
    """An argument that is more than the value of one flag.

    Attributes:
        compute: Returns the argument.
        flags: The flags that it depends on and that no other entry of the method names.
    """

    compute: Callable[[Context], Any]
    flags: tuple[Flag, ...] = ()


class Entry:
    """A method as the command knows it: its class, and where each argument comes from.

    Args:
        name: The folder and the name of its class, such as `"thresholds.FixedThreshold"`.
        defaults: Flags that have another default with this method, by name.
        frozen_defaults: Those that it has with a frozen encoder only.
        **arguments: A `Flag`, a `Computed` or a constant for each argument.
    """

    def __init__(
        self,
        name: str,
        defaults: Mapping[str, Any] | None = None,
        frozen_defaults: Mapping[str, Any] | None = None,
        **arguments: Any,
    ):
        self._name = name
        self.defaults = dict(defaults or {})
        self.frozen_defaults = dict(frozen_defaults or {})
        self.arguments = arguments

    @property
    def make(self) -> Any:
        """Its class."""
        folder, _, name = self._name.rpartition(".")
        return getattr(importlib.import_module(f"daso_tf.{folder}"), name)

    @property
    def flags(self) -> Iterator[Flag]:
        """The flags that its arguments depend on."""
        for argument in self.arguments.values():
            if isinstance(argument, Flag):
                yield argument
            elif isinstance(argument, Computed):
                yield from argument.flags

    def build(self, context: Context, **more: Any) -> Any:
        """Makes the method.

        Args:
            context: What its arguments depend on.
            **more: Further arguments.
        """
        return self.make(**{k: _value(v, context) for k, v in self.arguments.items()}, **more)


def _value(argument: Any, context: Context) -> Any:
    if isinstance(argument, Flag):
        return context.settings[argument.name]
    return argument.compute(context) if isinstance(argument, Computed) else argument


def one_of(flag: Flag, table: Mapping[str, Entry | None]) -> Computed:
    """Returns the argument that is built by the entry that a flag names."""

    def compute(context: Context) -> Any:
        entry = table[context.settings[flag.name]]
        return entry and entry.build(context)

    return Computed(compute, (flag,))


def share_of_run(flag: Flag) -> Computed:
    """Returns the argument that is a number of steps, given as a fraction of the run."""
    return Computed(lambda c: round(c.settings[flag.name] * c.settings.steps), (flag,))
