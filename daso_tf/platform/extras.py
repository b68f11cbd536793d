"""Packages that only an extra of the installation contains, such as `daso_tf[safetensors]`."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType


class MissingExtraError(ImportError, ValueError):
    """A package of an extra cannot be imported; the message says how to install it."""


def import_extra(module: str, extra: str, purpose: str, note: str = "") -> ModuleType:
    """Imports a module that an extra of the installation contains.

    Args:
        module: Its full name.
        extra: The name of the extra in `setup.py`.
        purpose: What needs it, the subject of the message.
        note: What else the installation needs, the end of the message.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it cannot be imported.

    Example:

    >>> import_extra("no_such_module", "safetensors", "reading it")
    Traceback (most recent call last):
    daso_tf.platform.extras.MissingExtraError: reading it needs a package that cannot be imported \
(No module named 'no_such_module'): pip install "daso_tf[safetensors]"
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs a package that cannot be imported ({error}): "
            f'pip install "daso_tf[{extra}]" {note}'.rstrip()
        ) from error


def file_of_extra(package: str, pattern: str, extra: str, purpose: str) -> Path:
    """Returns the path of a file in a package of an extra, without importing the package.

    Args:
        package: The name of the package, as pip has it.
        pattern: The name of the file, such as `"*.pth"`.
        extra: The name of the extra in `setup.py`.
        purpose: What needs it, the subject of the message.

    Raises:
        MissingExtraError: If the package, or the file in it, is not there.

    Example:

    >>> file_of_extra("no-such-package", "*.pth", "pretrained", "the encoder")
    Traceback (most recent call last):
    daso_tf.platform.extras.MissingExtraError: the encoder needs a file of the package \
no-such-package, which is not there: pip install "daso_tf[pretrained]"
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.match(pattern) and path.is_file():
            return path
    raise MissingExtraError(
        f"{purpose} needs a file of the package {package}, which is not there: "
        f'pip install "daso_tf[{extra}]"'
    )
