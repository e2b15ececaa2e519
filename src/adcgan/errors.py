"""The errors that a caller is expected to meet, one class for each way to go on.

What the operating system refuses is an `OSError`, as in all of Python: a disk is full, a right is
missing. `system_failure` tells those from mistakes of a program.
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
    """The user's input is wrong; the message names it, what is allowed and what came instead."""


class DivergedError(RuntimeError):
    """Training produced a loss that is not finite; the message names the loss and the step."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class StorageError(OSError):
    """A place for results cannot be written; the message names it and says why.

    For object stores and other machines' disks, whose errors have no number and no path.
    """


def system_failure(error: BaseException) -> OSError | None:
    """Return the failure of the operating system that an error is or was raised from.

    Parameters
    ----------
    error : BaseException
        Anything that was raised; libraries raise errors of their own from the system's.

    Returns
    -------
    OSError or None
        A full or broken disk, no permission, too many open files, no memory, or a file that is no
        longer there. None for anything else, mistakes of the program included.
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
    """Say whether a file or folder of the user's is not there, and not one of the program's."""
    if error.errno != errno.ENOENT or error.filename is None:
        return False
    path = Path(os.path.abspath(os.fsdecode(error.filename)))
    return not any(path.is_relative_to(place) for place in _PROGRAM)
