"""Images of many requests, scored together by one thread."""

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
    """Collects items into batches and gives each item its own result.

    An item that comes while nothing is computed waits a moment for others; items that come while
    a batch is computed make up the next one.

    Parameters
    ----------
    compute : callable
        Called with up to `max_batch` items in `executor`, one batch at a time; returns as many
        results, in order.
    executor : Executor
        Where `compute` runs.
    max_batch : int
        Items of a batch, at least 1.
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
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the running event loop is used from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, without the items that still wait."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def alive(self) -> bool:
        """Whether items are being worked on."""
        return self._task is not None and not self._task.done()

    def submit(self, item: T) -> asyncio.Future[R]:
        """Queue an item; a cancelled future takes it out again."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, future))
        return future

    async def _run(self) -> None:
        while True:
            batch = await self._collect()
            if batch:
                await self._work_on(batch)

    async def _collect(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Wait for the next batch; empty where everyone who waited has gone."""
        batch = [await self._waiting.get()]
        if self._waiting.qsize() + 1 < self._max_batch:
            await asyncio.sleep(self._max_wait)
        while len(batch) < self._max_batch and not self._waiting.empty():
            entry = self._waiting.get_nowait()
            if not entry[1].cancelled():
                batch.append(entry)
        return [entry for entry in batch if not entry[1].cancelled()]

    async def _work_on(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        """Compute a batch and hand out its results, or its error."""
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
