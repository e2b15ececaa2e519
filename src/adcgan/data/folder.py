"""Folders of images and single image files."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adcgan.data.cache import Decoded, discard, entry_key, file_digest, read_entry
from adcgan.data.image_file import Target, decode_file, reason
from adcgan.data.parallel import decode_all, in_parallel
from adcgan.data.system_files import is_left_out
from adcgan.errors import InputError
from adcgan.progress import Progress


@dataclass(frozen=True)
class FoundFile:
    """A file of a folder.

    Parameters
    ----------
    name : str
        Path relative to the folder, POSIX style, in valid Unicode.
    path : str
        Where to read it.
    error : str
        Why it cannot be opened at all, or "".
    """

    name: str
    path: str
    error: str = ""


def file_at(path: str | os.PathLike[str], name: str | None = None) -> FoundFile:
    """Return the file at a path that a user gave, with an error unless it may be opened.

    Parameters
    ----------
    path : path
        ``~`` is the user's home.
    name : str or None, default None
        Its name in results. None: the path as given.

    Returns
    -------
    FoundFile
        A pipe or device has an error, since opening or reading it may never end.
    """
    given = os.fspath(path)
    path = os.path.expanduser(given)
    error = ""
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            error = "not a regular file"
    except (OSError, ValueError) as problem:
        error = reason(problem)
    return FoundFile(valid_name(given if name is None else name), path, error)


def decode_found(file: FoundFile, target: Target) -> NDArray[np.uint8]:
    """Return the pixels (C, H, W) of a file; any exception if it cannot be read."""
    if file.error:
        raise ValueError(file.error)
    if os.path.getsize(file.path) == 0:
        raise ValueError("the file is empty")
    return decode_file(file.path, target)


def list_files(folder: Path) -> list[FoundFile]:
    """List every file in a folder and the folders in it, by relative path.

    Hidden files and folders, and what operating systems leave behind, are left out. Links to
    folders are followed, each folder is listed once however many links lead to it, and by its own
    name if it is inside.
    Broken links, folders that cannot be opened, pipes and devices are listed with an error.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    list of FoundFile

    Raises
    ------
    InputError
        If the folder itself cannot be opened.
    """
    found: list[FoundFile] = []
    links: list[tuple[str, str]] = []
    seen: set[str] = set()
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise InputError(
            f"The folder {str(folder)!r} cannot be opened: {reason(error)}."
        ) from error
    _walk(str(folder), "", found, links, seen)
    while links:
        path, name = links.pop(0)
        _walk(path, name, found, links, seen)
    return sorted(found, key=lambda file: file.name)


def decode_files(
    files: list[FoundFile], target: Target, *, cache: bool, progress: Progress | None
) -> Decoded:
    """Decode files, or take them from the cache.

    Parameters
    ----------
    files : list of FoundFile
        What to decode.
    target : Target
        Size and channels.
    cache : bool
        Look the result up by the content of the files, and keep it if it is not there.
    progress : Progress or None
        Where to report to; None for a bar on the terminal.

    Returns
    -------
    Decoded
    """
    names = [file.name for file in files]

    def fetch(i: int) -> NDArray[np.uint8]:
        return decode_found(files[i], target)

    if not cache:
        return decode_all(names, fetch, target, progress=progress)
    before = [_state(file) for file in files]
    digests = list(
        in_parallel(lambda i: _digest(files[i]), len(files), "Looking in the cache", progress)
    )
    settings = {"size": target.size, "resize": target.resize, "channels": target.channels}
    key = entry_key({**settings, "names": names}, digests)
    entry = read_entry(key)
    if entry is None:
        entry = decode_all(names, fetch, target, key=key, progress=progress)
        if [_state(file) for file in files] != before:
            # Files changed between the hash and the decoding: the key may name other content.
            discard(key)
    return entry


def _walk(
    path: str, name: str, found: list[FoundFile], links: list[tuple[str, str]], seen: set[str]
) -> None:
    """List one folder and what is in it, leaving links to folders for later."""
    pending = [(path, name)]
    while pending:
        path, name = pending.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            found.append(FoundFile(valid_name(name), path, reason(error)))
            continue
        for entry in entries:
            if is_left_out(entry.name):
                continue
            inside = f"{name}/{entry.name}" if name else entry.name
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                what = f"broken link ({reason(error)})" if entry.is_symlink() else reason(error)
                found.append(FoundFile(valid_name(inside), entry.path, what))
                continue
            if stat.S_ISDIR(mode):
                (links if entry.is_symlink() else pending).append((entry.path, inside))
            else:
                error_text = "" if stat.S_ISREG(mode) else "not a regular file"
                found.append(FoundFile(valid_name(inside), entry.path, error_text))


def _digest(file: FoundFile) -> str:
    """Return the hash of a file, or why it has none."""
    if file.error:
        return file.error
    try:
        return file_digest(file.path)
    except OSError as error:
        return reason(error)


def _state(file: FoundFile) -> tuple[int, int]:
    """Return a file's size and time, which change when it is written."""
    try:
        status = os.stat(file.path)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def valid_name(name: str) -> str:
    """Write bytes of a file name that are not text as escapes, so that any file can hold it."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
