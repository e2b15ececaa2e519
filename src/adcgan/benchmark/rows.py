"""The results file: one JSON object per line, appended atomically and readable at any time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from adcgan.errors import InputError
from adcgan.files import append_line

# Windows has different locks, so two sweeps in one folder are not detected there.
if sys.platform != "win32":
    import fcntl

ROWS_FILE = "rows.jsonl"
Row = dict[str, Any]


class RowsFile:
    """The ``rows.jsonl`` of a sweep, to which one process at a time can append.

    Parameters
    ----------
    folder : Path
        The sweep's folder, created if necessary.

    Raises
    ------
    InputError
        On entering the context, if another process is using the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ROWS_FILE

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._drop_partial_line()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def append(self, row: Row) -> None:
        """Append a row atomically and flush it to disk."""
        append_line(self.path, self._file, json.dumps(row, allow_nan=False) + "\n")
        os.fsync(self._file)

    def _lock(self) -> None:
        """Lock the file for this process; the lock ends with the process."""
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another benchmark is running in {str(self.path.parent)!r}. Wait for it, or "
                "choose another --out ('adcgan tables' accepts several folders)."
            ) from None

    def _drop_partial_line(self) -> None:
        """Remove an incomplete last line, left by a full disk or a power failure."""
        content = self.path.read_bytes()
        os.ftruncate(self._file, content.rfind(b"\n") + 1)


def read_rows(source: Path) -> list[Row]:
    """Read the rows of a sweep's folder or of a file, in the order they were written.

    Returns an empty list if there is no file.

    Raises
    ------
    InputError
        If a line is not a JSON object.
    """
    path = source / ROWS_FILE if source.is_dir() else source
    if not path.exists():
        return []
    whole_lines = path.read_bytes().split(b"\n")[:-1]
    rows: list[Row] = []
    for number, line in enumerate(whole_lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "key" not in row:
            raise InputError(f"Line {number} of {str(path)!r} is not a row of results.")
        rows.append(row)
    return rows


def latest(rows: Iterable[Row]) -> list[Row]:
    """Return one row per cell: its last success or, failing that, its last failure."""
    chosen: dict[str, Row] = {}
    for row in rows:
        before = chosen.get(row["key"])
        if before is None or row["error"] is None or before["error"] is not None:
            chosen[row["key"]] = row
    return list(chosen.values())
