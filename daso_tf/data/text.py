"""Text that people write: files with or without a byte order mark, and names for display."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from daso_tf.data.errors import DataError

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a text file. Editors and spreadsheets of Windows start it with a byte order mark.

    Args:
        path: A file in UTF-8, or in UTF-16 with a byte order mark.

    Returns:
        Its text, with line ends as they are and without the byte order mark.

    Raises:
        DataError: If it is not text in one of these encodings.
        OSError: If it cannot be read.

    Example:

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "classes.txt")
    ...     with open(path, "w", encoding="utf-8-sig") as file:
    ...         _ = file.write("cat")
    ...     read_text(path)
    'cat'
    """
    return decoded(Path(path).read_bytes(), path)


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the number and the text of each line that is not blank, without space around it.

    Example:

    >>> list(numbered_lines("cat\\r\\n\\r\\n dog"))
    [(1, 'cat'), (3, 'dog')]
    """
    # str.splitlines would also split at characters that can be part of a name.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line := line.strip():
            yield number, line


def refuse_wrong_lines(
    path: str | os.PathLike[str], wrong: Sequence[str], advice: str = ""
) -> None:
    """Raises one error for all wrong lines of a text file; it shows the first five.

    Args:
        path: The file.
        wrong: One sentence per wrong line, with its number. If there is none, nothing happens.
        advice: What to do, after the lines.

    Raises:
        DataError: If a line is wrong.
    """
    if wrong:
        more = f"\n... and {len(wrong) - 5:,} more." if len(wrong) > 5 else ""
        count = f"{len(wrong):,} wrong line{'s' * (len(wrong) > 1)}"
        lines = "\n  ".join(wrong[:5])
        raise DataError(
            f"{os.fspath(path)!r} has {count}:\n  {lines}{more}" + f"\n{advice}" * bool(advice)
        )


def decoded(content: bytes, path: str | os.PathLike[str]) -> str:
    """Returns the text of the content of a file; see `read_text`."""
    encoding = "utf-16" if content.startswith(_UTF_16_MARKS) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{os.fspath(path)!r} is not text in UTF-8: {error}. Save it as UTF-8."
        ) from error


def as_cell(text: str) -> str:
    """Returns a text as a cell of CSV that a spreadsheet does not take for a formula.

    Example:

    >>> as_cell("=1+1"), as_cell("cat")
    ("'=1+1", 'cat')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def printable(name: str, longest: int | None = None) -> str:
    """Returns a name in one line that does not control the terminal, as names are never markup.

    Args:
        name: Any text, such as the name of a folder.
        longest: The number of characters to show of a longer name; None shows all.

    Example:

    >>> printable("猫 $1_$"), printable("red\\x1b[31m\\n"), printable("goldfinch", longest=5)
    ('猫 $1_$', 'red\\\\x1b[31m\\\\n', 'gold…')
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in name
    )
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 1]}…"
