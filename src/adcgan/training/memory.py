"""Main memory between the steps of training."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
# Where glibc's own rule ends up once a block of 32 MiB or more was freed.
_USUAL_TRIM, _USUAL_MMAP = 64 << 20, 32 << 20


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed main memory for the next step while the block runs.

    glibc gives large blocks back to the system as they are freed, and every step then waits for
    the same memory to be handed out and cleared anew: up to a tenth of its time. At the end of the
    block all that is free is given back. With another C library this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    library.mallopt(_MMAP_THRESHOLD, _MOST)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        library.malloc_trim(0)
