"""Constructors that show all their arguments, although subclasses pass most of them on."""

from __future__ import annotations

import inspect
import re

_ARGS = re.compile(r"^    Args:\n(?P<entries>(?:        .*\n|\n(?=        ))*)", re.MULTILINE)
_ENTRY = re.compile(r"^        (\w+): .*\n(?:            .*\n|\n(?=            ))*", re.MULTILINE)


def show_all_arguments(cls: type, base: type, hidden: frozenset[str]) -> None:
    """Adds the inherited arguments to a class's signature and to the `Args` of its docstring.

    `inspect.signature`, notebooks and the documentation then show what the constructor takes.

    Args:
        cls: A class whose `__init__` passes `**kwargs` to that of a base class. The arguments of
            the classes in its attribute `passes_arguments_to` are added, too.
        base: The last base class whose arguments count.
        hidden: Names of arguments that are only shown where the class itself takes them.
    """
    first, *ancestors = cls.__mro__[: cls.__mro__.index(base) + 1]
    sources = (first, *getattr(cls, "passes_arguments_to", ()), *ancestors)
    parameters: dict[str, inspect.Parameter] = {}
    documented: dict[str, str] = {}
    for source in sources:
        keyword_only = "self" in parameters  # those of the first constructor keep their kind
        for name, parameter in _parameters(source).items():
            if keyword_only:
                parameter = parameter.replace(kind=parameter.KEYWORD_ONLY)
            parameters.setdefault(name, parameter)
        documented = _entries(vars(source).get("_own_doc", source.__doc__)) | documented
    not_shown = {"self", "dtype", *(hidden - _parameters(cls).keys())}
    shown = [parameter for parameter in parameters.values() if parameter.name not in not_shown]
    shown.sort(key=lambda parameter: parameter.kind)
    cls.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # inspect reads it
    if cls.__doc__:
        cls._own_doc = cls.__doc__  # type: ignore[attr-defined]  # for subclasses
        entries = "".join(documented[p.name] for p in shown if p.name in documented)
        cls.__doc__ = _ARGS.sub(lambda _: f"    Args:\n{entries}", cls.__doc__, count=1)


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Returns the named parameters of a class's own constructor; none where it has no own one."""
    if "__init__" not in vars(cls):
        return {}
    parameters = inspect.signature(vars(cls)["__init__"]).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def _entries(docstring: str | None) -> dict[str, str]:
    """Returns the text of each argument in the `Args` of a class's docstring."""
    found = _ARGS.search(docstring or "")
    entries = _ENTRY.finditer(found["entries"]) if found else ()
    return {entry[1]: entry[0].rstrip("\n") + "\n" for entry in entries}
