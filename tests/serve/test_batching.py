from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from adcgan.serve.batching import Batcher


@asynccontextmanager
async def batching(compute, **options):
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(compute, executor, **{"max_batch": 4, "max_wait": 0.01, **options})
        yield batcher
        await batcher.stop()


def test_each_item_gets_its_own_result_however_they_are_grouped():
    sizes = []

    def compute(items):
        sizes.append(len(items))
        return [10 * item for item in items]

    async def main():
        async with batching(compute) as batcher:
            return await asyncio.gather(*(batcher.submit(i) for i in range(11)))

    assert asyncio.run(main()) == [10 * i for i in range(11)]
    assert sum(sizes) == 11
    assert max(sizes) == 4


def test_items_that_come_during_a_batch_are_the_next_one():
    entered, go, sizes = threading.Event(), threading.Event(), []

    def compute(items):
        sizes.append(len(items))
        entered.set()
        assert go.wait(10)
        return items

    async def main():
        async with batching(compute, max_wait=0) as batcher:
            first = batcher.submit(0)
            await asyncio.to_thread(entered.wait, 10)
            rest = [batcher.submit(i) for i in (1, 2, 3)]
            go.set()
            await asyncio.gather(first, *rest)

    asyncio.run(main())
    assert sizes == [1, 3]


def test_a_lone_item_does_not_wait_for_others_that_never_come():
    async def main():
        async with batching(lambda items: items, max_wait=0.02) as batcher:
            return await asyncio.wait_for(batcher.submit(5), 5)

    assert asyncio.run(main()) == 5


def test_an_item_that_was_given_up_is_not_computed():
    entered, go, seen = threading.Event(), threading.Event(), []

    def compute(items):
        seen.extend(items)
        entered.set()
        assert go.wait(10)
        return items

    async def main():
        async with batching(compute, max_wait=0) as batcher:
            first = batcher.submit("first")
            await asyncio.to_thread(entered.wait, 10)
            given_up, last = batcher.submit("given up"), batcher.submit("last")
            given_up.cancel()
            go.set()
            assert await asyncio.gather(first, last) == ["first", "last"]

    asyncio.run(main())
    assert seen == ["first", "last"]


def test_an_error_reaches_everyone_in_the_batch_and_the_next_batch_goes_on(caplog):
    def compute(items):
        if 13 in items:
            raise ZeroDivisionError
        return items

    async def main():
        async with batching(compute) as batcher:
            failed = await asyncio.gather(
                batcher.submit(13), batcher.submit(1), return_exceptions=True
            )
            assert [type(error) for error in failed] == [ZeroDivisionError] * 2
            assert await batcher.submit(2) == 2
            assert batcher.alive

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "2 images could not be scored" in caplog.text


@pytest.mark.parametrize("max_batch", [1, 2, 7])
def test_no_batch_is_larger_than_allowed(max_batch):
    sizes = []

    def compute(items):
        sizes.append(len(items))
        return items

    async def main():
        async with batching(compute, max_batch=max_batch) as batcher:
            await asyncio.gather(*(batcher.submit(i) for i in range(20)))

    asyncio.run(main())
    assert sum(sizes) == 20
    assert max(sizes) == max_batch
