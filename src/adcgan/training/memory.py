"""Main memory between the steps of training."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h. Blocks that are mapped, each on its own, go back to the system when freed;
# so does what is free at the end of the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
# glibc's default, and where its thresholds end up once a block of 32 MiB or more was freed.
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


# Blocks under way: they may end in another order than they began.
_blocks = 0


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed main memory for the next step while the block runs.

    glibc gives large blocks back to the system as they are freed, and every step then waits for
    the same memory to be handed out and cleared anew: up to a tenth of its time. At the end of the
    last such block under way all that is free is given back. With another C library this does
    nothing.
    """
    global _blocks
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    library.mallopt(_MMAP_MAX, 0)
    _blocks += 1
    try:
        yield
    finally:
        _blocks -= 1
        if not _blocks:
            for option, value in _USUAL.items():
                library.mallopt(option, value)
            library.malloc_trim(0)
