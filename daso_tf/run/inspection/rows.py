"""Tables of pictures as CSV and as JSON lines, written while the rows are made."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from daso_tf.data.text import as_cell
from daso_tf.platform.files import write_atomically

Row = Mapping[str, Any]


def write_both(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Writes rows as `path` with the endings `.csv` and `.jsonl`, holding one at a time.

    Args:
        path: The file without its ending.
        columns: The names of the columns.
        rows: What each row has in each column: a text, a number, a bool, or None.

    Raises:
        OSError: If a file cannot be written; both are then as they were before.
    """

    def write(as_csv: BinaryIO) -> None:
        write_atomically(
            path.with_name(f"{path.name}.jsonl"),
            lambda as_lines: _write(rows, columns, as_csv, as_lines),
        )

    write_atomically(path.with_name(f"{path.name}.csv"), write)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Writes rows as CSV; see `write_both`."""
    write_atomically(path, lambda as_csv: _write(rows, columns, as_csv, None))


def _write(
    rows: Iterable[Row], columns: Sequence[str], as_csv: BinaryIO, as_lines: BinaryIO | None
) -> None:
    text = io.TextIOWrapper(as_csv, "utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])
        if as_lines is not None:
            as_lines.write(json.dumps({column: row[column] for column in columns}).encode() + b"\n")
    text.flush()
    text.detach()  # the file is closed by whoever has opened it


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else as_cell(str(value))
