"""The errors that callers may want to handle, one class for each response.

A full disk or a missing permission is an `OSError`, as everywhere in Python. `system_failure`
tells such failures of the system from bugs.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

# "No such file" is not among them: see `_is_gone`.
_SYSTEM = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
_PROGRAM = (Path(__file__).parent, Path(sys.prefix), Path(sys.base_prefix))


class InputError(ValueError):
    """The input is wrong; the message says what is allowed and what was given."""


class DivergedError(RuntimeError):
    """Training produced a loss that is not finite; the message names the loss and the step."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class StorageError(OSError):
    """Results cannot be written; the message says where and why.

    For object stores and remote disks, whose errors have no number and no path.
    """


def system_failure(error: BaseException) -> OSError | None:
    """Return the failure of the operating system behind an error, if there is one.

    Parameters
    ----------
    error : BaseException
        Any error; its causes are searched too, because libraries wrap system errors.

    Returns
    -------
    OSError or None
        A full or broken disk, no permission, too many open files, no memory, or a file that is no
        longer there. None for anything else, bugs included.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, StorageError):
            return found
        if isinstance(found, OSError) and (found.errno in _SYSTEM or _is_gone(found)):
            return found
        found = found.__cause__
    return None


def _is_gone(error: OSError) -> bool:
    """Say whether a file or folder is missing that is not part of the installation."""
    if error.errno != errno.ENOENT or error.filename is None:
        return False
    path = Path(os.path.abspath(os.fsdecode(error.filename)))
    return not any(path.is_relative_to(place) for place in _PROGRAM)
