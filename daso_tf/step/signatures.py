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
    own = set(inspect.signature(cls.__init__).parameters) if "__init__" in vars(cls) else set()
    parameters: dict[str, inspect.Parameter] = {}
    documented: dict[str, str] = {}
    sources = (
        *cls.__mro__[: cls.__mro__.index(base) + 2],
        *getattr(cls, "passes_arguments_to", ()),
    )
    for source in sources:
        if "__init__" in vars(source):
            for parameter in inspect.signature(source.__init__).parameters.values():
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                    kind = parameter.kind if not parameters or source is cls else None
                    parameters.setdefault(
                        parameter.name,
                        parameter if kind else parameter.replace(kind=parameter.KEYWORD_ONLY),
                    )
        documented = _entries(vars(source).get("_own_doc", source.__doc__)) | documented
    not_shown = {"self", "dtype", *(hidden - own)}
    shown = [parameter for parameter in parameters.values() if parameter.name not in not_shown]
    shown.sort(key=lambda parameter: parameter.kind)
    cls.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # inspect reads it
    if cls.__doc__:
        cls._own_doc = cls.__doc__  # type: ignore[attr-defined]  # for subclasses
        entries = "".join(documented[p.name] for p in shown if p.name in documented)
        cls.__doc__ = _ARGS.sub(lambda _: f"    Args:\n{entries}", cls.__doc__, count=1)


def _entries(docstring: str | None) -> dict[str, str]:
    """Returns the text of each argument in the `Args` of a class's docstring."""
    found = _ARGS.search(docstring or "")
    entries = _ENTRY.finditer(found["entries"]) if found else ()
    return {entry[1]: entry[0].rstrip("\n") + "\n" for entry in entries}
