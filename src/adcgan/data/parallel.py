"""Many inputs -> one block of pixels: decoded by all cores, kept in bounded memory.

Workers decode; the calling thread appends their results, in input order, to one file that is then
memory-mapped. Nothing but the images in flight is held in memory, unreadable inputs take no place,
and a full disk is an error rather than a crash.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from functools import partial
from io import BytesIO
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from adcgan.data.cache import Decoded, discard, new_file, publish, usable_cache, warn_of_cache
from adcgan.data.image_file import Target, quiet_pillow, reason
from adcgan.data.imageset import Skipped
from adcgan.data.ragged import Images, shaped
from adcgan.files import scratch_file
from adcgan.progress import Progress, terminal_progress

T = TypeVar("T")
Fetch = Callable[[int], NDArray[np.uint8]]

# Images of one task: enough that the pool's own cost is small beside 28×28 images.
_CHUNK = 16
_MAX_WORKERS = 32
# Pixels that may need more than this go to a file.
_IN_MEMORY_BYTES = 64 << 20


def decode_all(
    names: Sequence[str],
    fetch: Fetch,
    target: Target,
    *,
    key: str | None = None,
    labels: list[int] | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """Decode every input in parallel.

    Parameters
    ----------
    names : sequence of str
        The name of each input.
    fetch : callable
        Called with an index from several threads; returns pixels (C, H, W) or raises.
    target : Target
        Size and channels that `fetch` returns. Without channels the set is grey if every readable
        image is, else RGB.
    key : str or None
        The result's name in the cache; None to keep it out.
    labels : list of int or None
        The class of every input, kept with the pixels.
    progress : Progress or None
        Where to report to; None for a bar on the terminal.

    Returns
    -------
    Decoded
        With no images if no input can be read; that is never kept in the cache.

    Raises
    ------
    OSError
        The pixels do not fit into ``$TMPDIR``. A cache that cannot be written is a warning.
    """

    def decode_into(file: IO[bytes]) -> Decoded:
        writer = _PixelWriter(file, target)
        skipped: list[Skipped] = []
        one = partial(_fetch_or_reason, fetch)
        with closing(in_parallel(one, len(names), "Reading images", progress)) as outcomes:
            for position, outcome in enumerate(outcomes):
                if isinstance(outcome, str):
                    skipped.append(Skipped(position, names[position], outcome))
                else:
                    writer.append(outcome)
        return Decoded(writer.finish(), skipped, labels)

    folder = None if key is None else usable_cache()
    if key is not None and folder is not None:
        try:
            with new_file(folder) as (file, path):
                decoded = decode_into(file)
                if len(decoded.images):
                    publish(key, path, decoded)
            return decoded
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            # What cannot be read is in `skipped`, so this is the cache, which can be done without.
            with suppress(OSError):
                discard(key)
            warn_of_cache(folder, error)
    # What keeps its size may be of any: it goes to a file.
    side = target.size
    most = None if target.resize == "keep" or side is None else len(names) * 3 * side**2
    in_memory = most is not None and most <= _IN_MEMORY_BYTES
    # What is in memory is not closed: the images are views of it.
    with nullcontext(BytesIO()) if in_memory else scratch_file() as file:
        return decode_into(file)


class _PixelWriter:
    """Appends images to a file, as grey ones until the first that is not."""

    def __init__(self, file: IO[bytes], target: Target) -> None:
        self._file = file
        self._target = target
        self._channels = target.channels or 1
        self._sides: list[tuple[int, int]] = []

    def append(self, pixels: NDArray[np.uint8]) -> None:
        """Write one image (C, H, W), made RGB if the others are."""
        if len(pixels) > self._channels:
            assert self._target.channels is None
            self._widen()
        if len(pixels) < self._channels:
            pixels = np.repeat(pixels, 3, axis=0)
        self._file.write(pixels.tobytes())
        self._sides.append((pixels.shape[1], pixels.shape[2]))

    def finish(self) -> Images:
        """Return all images, read from where they were written."""
        self._file.flush()
        shapes = [(self._channels, *sides) for sides in self._sides]
        if not shapes:
            side = self._target.size or 0
            return np.empty((0, self._channels, side, side), np.uint8)
        if isinstance(self._file, BytesIO):
            return shaped(np.frombuffer(self._file.getbuffer(), np.uint8), shapes)
        return shaped(np.memmap(self._file, np.uint8, "r"), shapes)

    def _widen(self) -> None:
        """Turn the grey images written so far into RGB, in place: last first, as they grow."""
        end = sum(height * width for height, width in self._sides)
        start = end
        for height, width in reversed(self._sides):
            start -= height * width
            self._file.seek(start)
            grey = self._file.read(height * width)
            self._file.seek(3 * start)
            self._file.write(3 * grey)
        self._file.seek(3 * end)
        self._channels = 3


def in_parallel(
    one: Callable[[int], T], count: int, description: str, progress: Progress | None
) -> Generator[T, None, None]:
    """Yield ``one(0)``, ``one(1)``, … in order, computed by threads a few chunks ahead.

    Parameters
    ----------
    one : callable
        Called from several threads.
    count : int
        Number of calls.
    description : str
        What the progress bar says.
    progress : Progress or None
        Where to report to; None for a bar on the terminal.

    Yields
    ------
    The results, in order.
    """
    shown = terminal_progress() if progress is None else progress
    workers = _worker_count()
    chunks = (range(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK))
    ahead: deque[Future[list[T]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="adcgan-data")
    shown.start(description, count)
    try:
        with quiet_pillow():
            for chunk in chunks:
                ahead.append(pool.submit(lambda chunk: [one(i) for i in chunk], chunk))
                if len(ahead) > 2 * workers:
                    yield from _take(ahead, shown)
            while ahead:
                yield from _take(ahead, shown)
    finally:
        pool.shutdown(cancel_futures=True)
        shown.finish()


def _take(ahead: deque[Future[list[T]]], progress: Progress) -> list[T]:
    results = ahead.popleft().result()
    progress.advance(len(results))
    return results


def _worker_count() -> int:
    """Return the number of cores this process may use, within reason."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
    return min(os.cpu_count() or 1, _MAX_WORKERS)


def _fetch_or_reason(fetch: Fetch, i: int) -> NDArray[np.uint8] | str:
    """Fetch one input, or say why not."""
    try:
        return fetch(i)
    except Exception as error:
        # Broken files make decoders raise almost anything; each becomes a row, not a crash.
        return reason(error)
