"""The settings of one command: an immutable object, passed down instead of global flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from absl import flags

from daso_tf.data.text import numbered_lines, read_text
from daso_tf.settings.flag import Flag, expanded

PRESETS = Path(__file__).parents[1] / "presets"


class Settings(Mapping[str, Any]):
    """The value of every flag by name, as items and as attributes. It cannot be changed.

    Args:
        values: The values by name.
        given: Names of the flags that were given on the command line or in a flag file; the
            others have their defaults.

    Example:

    >>> settings = Settings({"steps": 100, "learner": "fixmatch"}, given={"steps"})
    >>> settings.replace(steps=200).steps, settings.steps
    (200, 100)
    >>> settings.with_defaults({"steps": 5, "learner": "mixmatch"}).learner
    'mixmatch'
    """

    def __init__(self, values: Mapping[str, Any], given: Iterable[str] = ()):
        object.__setattr__(self, "_values", MappingProxyType(dict(values)))
        object.__setattr__(self, "given", frozenset(given))

    def replace(self, **values: Any) -> Settings:
        """Returns the settings with other values."""
        return Settings({**self._values, **values}, self.given)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Settings:
        """Returns the settings with other defaults; a flag that was given keeps its value."""
        changed = {name: value for name, value in defaults.items() if name not in self.given}
        return self.replace(**changed)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"There is no setting {name!r}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Settings cannot be changed; use settings.replace({name}=...).")

    def __reduce__(self) -> tuple[Any, ...]:  # for copies and other processes
        return Settings, (dict(self._values), self.given)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={self[name]!r}' for name in sorted(self.given))})"


def parse(arguments: Iterable[str], accepted: Iterable[Flag]) -> tuple[Settings, list[str]]:
    """Parses a command line.

    `--flagfile=NAME` reads flags from a file: the file of that path, or else the preset of that
    name (`digits_lt.cfg`), which the package contains.

    Args:
        arguments: The command line without the program's name.
        accepted: The flags of the command.

    Returns:
        The settings, and the arguments that are not flags.

    Raises:
        absl.flags.Error: If a flag is unknown or its value is not allowed.

    Example:

    >>> from daso_tf.settings.flag import integer
    >>> settings, rest = parse(["--steps=5", "a.png"], [integer("steps", 10, "[1, inf)", "Steps.")])
    >>> settings.steps, rest
    (5, ['a.png'])
    """
    values = flags.FlagValues()
    accepted = tuple(accepted)
    for flag in accepted:
        flag.define_in(values)
    rest = values(["daso-tf", *_with_flag_files(arguments)])[1:]
    parsed = {flag.name: values[flag.name].value for flag in accepted}
    immutable = {
        name: tuple(value) if isinstance(value, list) else value for name, value in parsed.items()
    }
    return Settings(immutable, (flag.name for flag in accepted if values[flag.name].present)), rest


def presets() -> dict[str, str]:
    """Returns the first comment line of every preset, by its name."""
    return {
        path.name: read_text(path).splitlines()[0].lstrip("# ")
        for path in sorted(PRESETS.glob("*.cfg"))
    }


def _with_flag_files(arguments: Iterable[str], inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the arguments, with the lines of a flag file in the place of `--flagfile`.

    absl reads flag files as well, but takes a byte order mark for a part of the first flag.

    Args:
        arguments: A command line, or the lines of a flag file.
        inside: The flag files that contain these lines.
    """
    rest = iter(arguments)
    for argument in rest:
        option, equals, path = argument.partition("=")
        if option not in ("--flagfile", "-flagfile"):
            yield argument
            if argument == "--":  # no flag follows
                yield from rest
        elif path := _flag_file(path.strip() if equals else next(rest, "")):
            if path in inside:
                raise flags.Error(f"the flag file {path} includes itself")
            yield from _with_flag_files(_lines(path), (*inside, path))


def _flag_file(path: str) -> str:
    preset = PRESETS / path
    if not Path(path).exists() and preset.parent == PRESETS and preset.exists():
        return str(preset)
    try:
        return expanded(path)
    except ValueError as error:
        raise flags.Error(f"--flagfile={path}: {error}") from error


def _lines(path: str) -> list[str]:
    """Returns the lines of a flag file that are not comments."""
    try:
        lines = [line for _, line in numbered_lines(read_text(path))]
    except OSError as error:
        raise flags.CantOpenFlagFileError(f"the flag file cannot be opened: {error}") from error
    return [line for line in lines if not line.startswith(("#", "//"))]
