"""Sweeps on a Ray cluster, with cells as tasks."""

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

# How often Ray restarts a cell whose process or machine was lost.
RETRIES = 3
# Cells per GPU.
_CELLS_PER_GPU = 2
# Folders for reading and caching images, which the cluster's processes do not inherit.
_PASSED_ON = ("ADCGAN_DATA", "ADCGAN_CACHE")


def run_on_ray(
    cells: Sequence[Cell],
    folder: Path,
    workers: int | None,
    device: str,
    address: str,
    cuda_graphs: bool | None = None,
) -> Generator[tuple[Cell, Row, int], None, None]:
    """Run cells on a Ray cluster, each as a task with one core and half a GPU, if there are GPUs.

    The sweep's folder and the image folders must be on storage that all machines mount at the same
    path: if a machine is lost, its cell resumes elsewhere from the checkpoint. Only the caller
    writes rows.

    Parameters
    ----------
    cells, folder, device, cuda_graphs
        See `adcgan.benchmark.sweep.sweep`.
    workers : int or None
        Maximum number of concurrent cells; None means as many as fit in the cluster.
    address : str
        Address of the cluster; see `adcgan.cluster.connected`.

    Yields
    ------
    cell, row, running
        In order of completion.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    InputError
        No cluster was found at `address`.
    OSError
        A system error ended a cell, such as a full disk.
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
    """Start the tasks and yield their results."""
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
    """Return how many of the remaining cells the cluster runs at once."""
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0))
    if on_gpu:
        room = min(room, int(_CELLS_PER_GPU * resources.get("GPU", 0)))
    return min(left, room, workers or left)


def _run(
    cell: Cell, folder: str, device: str, cuda_graphs: bool | None, environment: dict[str, str]
) -> Row | OSError:
    """Run one cell on this machine of the cluster."""
    os.environ.update(environment)
    return attempt(cell, Path(folder), device, cuda_graphs)
