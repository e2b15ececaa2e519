"""Reuse of main memory between training steps."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h. Blocks that are mapped individually are returned to the system when they
# are freed, and so is free memory at the end of the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
# glibc's default, and the final values of its thresholds after a block of 32 MiB or more is freed.
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


# Number of active blocks, which may end in a different order than they started.
_blocks = 0


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed main memory for reuse while the block runs.

    glibc returns large allocations to the system when they are freed. Every step then waits for the
    same memory to be allocated and cleared again, for up to a tenth of its time. When the last
    active block ends, all free memory is returned. With other C libraries, this does nothing.
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
