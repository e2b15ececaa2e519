"""One line for a failure of the system: which file, what the system said, and what to do."""

from __future__ import annotations

import errno
import os
import tempfile

from adcgan.errors import StorageError, system_failure

_RIGHT = "Get permission, or choose another place"
# What to do, by the system's number.
_REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or get a larger quota",
    errno.EFBIG: "Raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "Choose a writable place",
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
    errno.ENFILE: "Close other programs",
    errno.ENOMEM: "Close other programs",
    errno.ENOENT: "It is gone, or its folder is: put it back",
}
_OTHER_REMEDY = "Check the disk"
# After these it is not the same command that goes on.
_ELSEWHERE = {errno.EROFS, errno.EACCES, errno.EPERM}
# What is wrong with a path itself, whatever state the system is in.
_WRONG_PATHS = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}


def failure_line(error: Exception, again: str) -> str | None:
    """Return the line for an error of the system, None for any other error.

    Parameters
    ----------
    error : Exception
        What ended the command.
    again : str
        How to continue once the cause is fixed, such as "the same command continues".
    """
    if isinstance(error, MemoryError):
        return f"there is not enough memory. {_REMEDIES[errno.ENOMEM]}; then {again}."
    failure = system_failure(error)
    if failure is None:
        return None
    if isinstance(failure, StorageError):
        return f"{str(failure).rstrip('.')}. Fix that; then {again}."
    where = "" if failure.filename is None else f" at {_name(failure)}"
    remedy = _REMEDIES.get(failure.errno or 0, _OTHER_REMEDY)
    if failure.filename in (tempfile.tempdir, "$TMPDIR"):
        remedy += ", or set $TMPDIR to a folder with room"
    then = "" if failure.errno in _ELSEWHERE else f"; then {again}"
    return f"the system failed{where}: {_said(failure)}. {remedy}{then}."


def wrong_path_line(error: Exception) -> str | None:
    """Return the line for a path that no file can have, None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _WRONG_PATHS:
        return None
    if error.filename is None:
        return None
    return f"{_name(error)} cannot be used: {_said(error)}."


def _said(error: OSError) -> str:
    """Return the system's own words."""
    return error.strerror or os.strerror(error.errno or 0)


def _name(error: OSError) -> str:
    """Return the file of an error, in quotes."""
    return repr(os.fsdecode(error.filename))
