"""Shards through Ray Data: numbers in, summaries out, in the order they are finished."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adcgan.bulk.manifest import Summary
from adcgan.bulk.worker import REPORTED, ShardScorer


def score_shards(
    task: Any, attempts: Any, shards: Sequence[int], workers: int | None, gpu_share: float
) -> Iterator[tuple[int, Summary]]:
    """Score shards on the cluster that this process is connected to.

    Parameters
    ----------
    task : ray.ObjectRef
        Of a `Task`.
    attempts : ray.actor.ActorHandle
        Of `Attempts`.
    shards : sequence of int
        Their numbers, at least one.
    workers : int or None
        Most worker processes at a time.
    gpu_share : float
        Share of a GPU for each worker.

    Yields
    ------
    shard, summary
        Each once its file is written, in the order they are finished.

    Raises
    ------
    InputError, MissingExtraError, StorageError, LostWorkersError
        What a worker raised for the user to read.
    """
    from ray import data

    with _quiet(data):
        rows = data.from_items([{"shard": s} for s in shards], override_num_blocks=len(shards))
        scored = rows.map_batches(
            ShardScorer,
            fn_constructor_args=(task, attempts),
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=1,
            num_gpus=gpu_share or None,
        )
        for row in scored.iter_rows():
            report = json.loads(row["report"])
            if "error" in report:
                raise REPORTED[report["error"]](report["message"])
            yield report["shard"], Summary(**report["summary"])


@contextmanager
def _quiet(data: Any) -> Iterator[None]:
    """Keep the bars and reports of Ray Data off the terminal, which has its own bar."""
    context, logger = data.DataContext.get_current(), logging.getLogger("ray.data")
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False}
    kept = {name: getattr(context, name) for name in wanted}
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        logger.setLevel(level)
        for name, value in kept.items():
            setattr(context, name, value)
