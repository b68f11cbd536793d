"""One flag: its name, its default, and what it accepts."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from absl import flags


class _Largest(NamedTuple):
    """The largest number that a type of flag may have, and why."""

    number: float
    reason: str


_WHOLE = _Largest(
    2**31 - 1,
    f"must be at most {2**31 - 1:,}: no machine can do or hold more, and TensorFlow counts in 32 "
    "bits",
)
_LARGEST: dict[Callable[..., Any], _Largest] = {
    flags.DEFINE_integer: _WHOLE,
    flags.DEFINE_list: _WHOLE,
    flags.DEFINE_float: _Largest(
        3.4e38, "must be at most 3.4e38: larger numbers are infinite in TensorFlow's 32 bits"
    ),
}


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command.

    The functions below make flags; this class only stores what they say.

    Args:
        name: Its name on the command line, without the dashes.
        default: Its value where none is given.
        text: What it means, in one sentence or two.
        define: The absl function that defines a flag of its type.
        choices: The allowed values, where they are a list.
        interval: The allowed numbers, such as `"[0, 1)"`, where it is a number.
        shown_default: The default as help and documentation show it, where it depends on others.
        free: Whether a run may continue with another value. True for what does not change the
            result: where files are, which devices compute, how many checkpoints are kept.
        kept: Whether the flag file of a run contains it. False for what is asked for once.
    """

    name: str
    default: Any
    text: str
    define: Callable[..., Any]
    choices: tuple[str, ...] = ()
    interval: str = ""
    shown_default: str = ""
    free: bool = False
    kept: bool = True

    @property
    def help(self) -> str:
        """The text with the allowed values."""
        allowed = f" In {self.interval}." if self.interval else ""
        shown = f" [default: {self.shown_default}]" if self.shown_default else ""
        return f"{self.text}{allowed}{shown}"

    def define_in(self, values: flags.FlagValues, default: Any = None) -> None:
        """Defines the flag in an absl `FlagValues`.

        Args:
            values: Where it is defined.
            default: A default to use instead of its own; None uses its own.
        """
        default = self.default if default is None else default
        choices = (list(self.choices),) if self.choices else ()
        self.define(self.name, default, *choices, self.help, flag_values=values)
        if self.interval:
            flags.register_validator(
                self.name,
                lambda number: (
                    not isinstance(number, (int, float)) or _inside(number, self.interval)
                ),
                message=f"must be a number in {self.interval}",
                flag_values=values,
            )
        if self.define is flags.DEFINE_list:
            flags.register_validator(
                self.name,
                lambda steps: steps is None or all(step.isdecimal() for step in steps),
                message="must be whole numbers, such as 200000,225000",
                flag_values=values,
            )
        if largest := _LARGEST.get(getattr(self.define, "func", self.define)):
            flags.register_validator(
                self.name,
                lambda value: all(abs(number) <= largest.number for number in _numbers(value)),
                message=largest.reason,
                flag_values=values,
            )

    def parse(self, text: str) -> Any:
        """Returns the value that a text on the command line stands for."""
        values = flags.FlagValues()
        self.define_in(values)
        return values[self.name].parser.parse(text)


def integer(name: str, default: int | None, interval: str, text: str, **more) -> Flag:
    """Returns a flag that is a whole number in an interval such as `"[1, inf)"`."""
    return Flag(name, default, text, flags.DEFINE_integer, interval=interval, **more)


def number(name: str, default: float | None, interval: str, text: str, **more) -> Flag:
    """Returns a flag that is a number in an interval such as `"[0, 1)"`."""
    return Flag(name, default, text, flags.DEFINE_float, interval=interval, **more)


def number_or_word(name: str, default: float, interval: str, word: str, text: str, **more) -> Flag:
    """Returns a flag that is a number in an interval such as `"[0, 1)"`, or a word."""
    define = functools.partial(_define_number_or_word, word)
    return Flag(name, default, text, define, interval=interval, **more)


def switch(name: str, default: bool | None, text: str, **more) -> Flag:
    """Returns a flag that is true or false."""
    return Flag(name, default, text, flags.DEFINE_bool, **more)


def choice(name: str, default: str | None, choices: Iterable[str], text: str, **more) -> Flag:
    """Returns a flag that is one of several words."""
    return Flag(name, default, text, flags.DEFINE_enum, choices=tuple(choices), **more)


def string(name: str, default: str | None, text: str, **more) -> Flag:
    """Returns a flag that is any text."""
    return Flag(name, default, text, flags.DEFINE_string, **more)


def location(name: str, default: str | None, text: str, **more) -> Flag:
    """Returns a flag that is the path of a file or folder; see `expanded`."""
    return Flag(name, default, text, _define_path, **more)


def steps(name: str, default: list[str] | None, text: str, **more) -> Flag:
    """Returns a flag that is a list of step numbers, separated by commas."""
    return Flag(name, default, text, flags.DEFINE_list, **more)


def as_text(value: Any) -> str:
    """Returns a value as a flag file has it; None is `"unset"`."""
    if value is None:
        return "unset"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def expanded(path: str) -> str:
    """Returns a path with `~` and environment variables replaced, as a shell would do.

    A shell only does so where an argument starts with them, and never in a flag file. The settings
    and the flag file of a run hold the result, so a run continues wherever the variables point.

    Args:
        path: A path. One that exists as it is written is returned unchanged.

    Raises:
        ValueError: If there is no such variable or home folder.

    Example:

    >>> import os
    >>> os.environ["PICTURES"] = "/data/pictures"
    >>> expanded("$PICTURES/birds"), expanded("${PICTURES}_2")
    ('/data/pictures/birds', '/data/pictures_2')
    """
    if os.path.lexists(path):
        return path
    home = os.path.expanduser(path)
    if home.startswith("~"):
        raise ValueError(f"there is no home folder {home.split('/')[0]}")
    for braced, plain in _VARIABLE.findall(home):
        if (braced or plain) not in os.environ:
            raise ValueError(f"there is no environment variable {braced or plain}")
    return os.path.expandvars(home)


_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")


class _NumberOrWordParser(flags.FloatParser):
    def __init__(self, word: str):
        super().__init__()
        self.word = word

    def convert(self, argument: Any) -> Any:
        return argument if argument == self.word else super().convert(argument)

    def is_outside_bounds(self, val: Any) -> bool:
        return val != self.word and super().is_outside_bounds(val)

    def flag_type(self) -> str:
        return f"number or {self.word}"


def _define_number_or_word(
    word: str, name: str, default: float, text: str, flag_values: flags.FlagValues
) -> None:
    flags.DEFINE(_NumberOrWordParser(word), name, default, text, flag_values)


_LARGEST[_define_number_or_word] = _LARGEST[flags.DEFINE_float]


class _PathParser(flags.ArgumentParser[str]):
    def parse(self, argument: str) -> str:
        return expanded(argument)

    def flag_type(self) -> str:
        return "path"


def _define_path(name: str, default: str | None, text: str, flag_values: flags.FlagValues) -> None:
    flags.DEFINE(_PathParser(), name, default, text, flag_values)


def _numbers(value: Any) -> list[float]:
    """Returns the numbers in the value of a flag, which may be a list of texts, or None."""
    if isinstance(value, list):
        return [int(text) for text in value if text.isdecimal()]
    return [value] if isinstance(value, (int, float)) else []


def _inside(value: float, interval: str) -> bool:
    """Whether a number is in an interval; nan is in none, as it compares false."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below
