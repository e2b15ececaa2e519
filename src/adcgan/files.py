"""Files that are either whole or absent: written under a temporary name, then renamed.

Where the system fails, the `OSError` names the file that was meant, whatever library wrote it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
# Libraries in Rust, such as safetensors, give the error number only in the message.
_NUMBER = re.compile(r"(?:\(os error |Os \{ code: )(\d+)")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` on success.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Raises
    ------
    OSError
        The file cannot be written; `filename` is `path`.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode
        yield temporary
        # Some writers create a file that only its owner may read.
        temporary.chmod(permissions)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except OSError as error:
        named = error.filename is not None and str(error.filename) != str(temporary)
        if named or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(final)) from error
    except Exception as error:
        number = _NUMBER.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(final)) from error
    finally:
        # A second failure here would hide the first.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def scratch_file() -> Iterator[IO[bytes]]:
    """Open a file without a name in the folder for temporary files; gone when it is closed.

    Raises
    ------
    OSError
        It cannot be written; `filename` is that folder, or ``$TMPDIR`` where there is none.
    """
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        if error.filename is None:
            error.filename = tempfile.tempdir or "$TMPDIR"
        raise


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove from `folder` the temporary files of `replacing` in processes that were killed.

    For a folder that no other process writes to.
    """
    for path in Path(folder).iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def append_line(path: str | os.PathLike[str], file: int, line: str) -> None:
    """Append `line` to an open file, whole or not at all.

    Parameters
    ----------
    path : path
        Of the file, for errors.
    file : int
        Its descriptor, open for appending by this process alone.
    line : str
        With its end of line.

    Raises
    ------
    OSError
        It cannot be written; `filename` is `path`.
    """
    before = os.fstat(file).st_size
    try:
        left = memoryview(line.encode())
        # A disk that is nearly full takes a part, and refuses the next.
        while left:
            left = left[os.write(file, left) :]
    except OSError as error:
        with suppress(OSError):
            os.ftruncate(file, before)
        error.filename = os.fspath(path)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
