"""The cells of a sweep as tasks of a Ray cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from adcgan.benchmark.cells import Cell
from adcgan.benchmark.rows import Row
from adcgan.benchmark.runner import attempt, error_row
from adcgan.cluster import connected

# How often Ray starts a cell again whose process or machine was lost.
RETRIES = 3
# Cells that share one GPU.
_CELLS_PER_GPU = 2
# Where images are read from and kept; the cluster's processes do not inherit it.
_PASSED_ON = ("ADCGAN_DATA", "ADCGAN_CACHE")


def run_on_ray(
    cells: Sequence[Cell],
    folder: Path,
    workers: int | None,
    device: str,
    address: str,
    cuda_graphs: bool | None = None,
) -> Generator[tuple[Cell, Row, int], None, None]:
    """Compute cells on a Ray cluster, one task and one core each, half a GPU where there are any.

    The sweep's folder and the folders of the images must be on a disk that every machine sees at
    the same path: a cell whose machine is lost goes on elsewhere from its checkpoint. The rows
    are written by the caller alone.

    Parameters
    ----------
    cells, folder, device, cuda_graphs
        As in `adcgan.benchmark.sweep.sweep`.
    workers : int or None
        Most cells at a time; None for as many as the cluster has room for.
    address : str
        Of the cluster; see `adcgan.cluster.connected`.

    Yields
    ------
    cell, row, running
        In the order they are done.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    InputError
        There is no cluster at `address`.
    OSError
        The system failed a cell: the disk is full, for example.
    """
    with connected(address) as ray:
        yield from _tasks(ray, cells, folder, workers, device, cuda_graphs)


def _tasks(
    ray: Any,
    cells: Sequence[Cell],
    folder: Path,
    workers: int | None,
    device: str,
    cuda_graphs: bool | None,
) -> Generator[tuple[Cell, Row, int], None, None]:
    """Start the tasks, and yield what each returns."""
    on_gpu = device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    task = ray.remote(
        num_cpus=1,
        num_gpus=1 / _CELLS_PER_GPU if on_gpu else 0,
        max_retries=RETRIES,
        scheduling_strategy="SPREAD",
    )(_run)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    waiting = deque(cells)
    running: dict[Any, Cell] = {}
    try:
        while waiting or running:
            while waiting and (workers is None or len(running) < workers):
                cell = waiting.popleft()
                arguments = (cell, str(folder.resolve()), device, cuda_graphs, environment)
                running[task.remote(*arguments)] = cell
            for reference in ray.wait(list(running))[0]:
                cell = running.pop(reference)
                try:
                    row = ray.get(reference)
                except ray.exceptions.RayError as error:
                    row = error_row(cell, " ".join(f"{type(error).__name__}: {error}".split()))
                if isinstance(row, OSError):
                    raise row
                yield cell, row, _under_way(ray, len(running) + len(waiting), workers, on_gpu)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _under_way(ray: Any, left: int, workers: int | None, on_gpu: bool) -> int:
    """Return how many cells the cluster computes at once, of those that are left."""
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0))
    if on_gpu:
        room = min(room, int(_CELLS_PER_GPU * resources.get("GPU", 0)))
    return min(left, room, workers or left)


def _run(
    cell: Cell, folder: str, device: str, cuda_graphs: bool | None, environment: dict[str, str]
) -> Row | OSError:
    """Compute one cell, on whichever machine this is."""
    os.environ.update(environment)
    return attempt(cell, Path(folder), device, cuda_graphs)
