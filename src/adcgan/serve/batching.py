"""Scoring the images of many requests together, in one thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger("adcgan.serve")


class Batcher(Generic[T, R]):
    """Collects items into batches and returns each item's own result.

    An item that arrives while nothing is computed waits a moment for others. Items that arrive
    while a batch is computed form the next one. It starts at once, in the running event loop.

    Parameters
    ----------
    compute : callable
        Called with up to `max_batch` items in `executor`, one batch at a time; returns as many
        results, in order.
    executor : Executor
        Where `compute` runs.
    max_batch : int
        Most items in a batch, at least 1.
    max_wait : float
        Seconds that the first item of a batch waits for more, at least 0.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Sequence[R]],
        executor: Executor,
        *,
        max_batch: int,
        max_wait: float,
    ) -> None:
        self._compute = compute
        self._executor = executor
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._waiting: asyncio.Queue[tuple[T, asyncio.Future[R]]] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop, dropping the items that still wait."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    @property
    def alive(self) -> bool:
        """Whether items are being processed."""
        return not self._task.done()

    def submit(self, item: T) -> asyncio.Future[R]:
        """Queue an item; cancel the future to withdraw it."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, future))
        return future

    async def _run(self) -> None:
        while True:
            if batch := await self._collect():
                await self._process(batch)

    async def _collect(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Wait for the next batch; it is empty if every item has been withdrawn."""
        batch = [await self._waiting.get()]
        if self._waiting.qsize() + 1 < self._max_batch:
            await asyncio.sleep(self._max_wait)
        while len(batch) < self._max_batch and not self._waiting.empty():
            entry = self._waiting.get_nowait()
            if not entry[1].cancelled():
                batch.append(entry)
        return [entry for entry in batch if not entry[1].cancelled()]

    async def _process(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        """Compute a batch and deliver its results, or its error."""
        loop = asyncio.get_running_loop()
        try:
            items = [item for item, _ in batch]
            results = await loop.run_in_executor(self._executor, self._compute, items)
        except Exception as error:
            _log.exception("A batch of %d images could not be scored", len(batch))
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
