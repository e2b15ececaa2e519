"""Cells that one process trains in turns, one step of each at a time.

On a CUDA device, each cell has its own stream, and Python moves on to the next cell while a step is
computed. A small network does not use the whole device, so several cells together finish sooner.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from adcgan.benchmark.cells import Cell, make_detector
from adcgan.benchmark.rows import Row
from adcgan.benchmark.runner import cell_in_steps, material_of, outcome_of
from adcgan.training import resolve_device

# Default maximum of concurrent cells. scripts/gpu_check measures what they gain.
MOST = 8
# Fraction of a device's free memory for training; images and scoring use the rest.
_MEMORY_SHARE = 0.7


class Turns:
    """The cells that are running in this process.

    Parameters
    ----------
    folder : Path
        The sweep's folder.
    device : str
        Device.
    cuda_graphs : bool or None
        Whether to train with CUDA graphs, as in `adcgan.Detector.fit`.
    at_once : int or None
        Maximum number of running cells. None means one, or, if steps are captured on a CUDA device,
        as many as fit in its memory, up to `MOST`.
    neighbours : int, default=1
        Number of processes that share the device, including this one.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        cuda_graphs: bool | None = None,
        at_once: int | None = None,
        neighbours: int = 1,
    ) -> None:
        self.folder, self.device, self.cuda_graphs = folder, device, cuda_graphs
        self.at_once, self.neighbours = at_once, neighbours
        self._steps: dict[Cell, Generator[None, None, Row]] = {}
        self._most: dict[Cell, int] = {}

    def __len__(self) -> int:
        return len(self._steps)

    def begin(self, cell: Cell) -> None:
        """Add a cell, starting with the next round."""
        self._steps[cell] = cell_in_steps(
            cell, self.folder, device=self.device, cuda_graphs=self.cuda_graphs
        )
        self._most[cell] = 0
        for each in self._steps:
            self._most[each] = max(self._most[each], len(self._steps))

    def take(self) -> Iterator[tuple[Cell, Row | OSError | None]]:
        """Take a step of every cell and yield the cells that finish, with their results.

        A result is a row, possibly with an error; or a system error, as in
        `adcgan.benchmark.runner.outcome_of`; or None if the cell ran out of memory next to others.
        """
        for cell in list(self._steps):
            yield from self._step(cell)

    def _step(self, cell: Cell) -> Iterator[tuple[Cell, Row | OSError | None]]:
        """Take a step of one cell and yield it if it finishes."""
        try:
            next(self._steps[cell])
        except StopIteration as end:
            yield cell, self._ended(cell, end.value)
        except torch.OutOfMemoryError as error:
            beside = len(self._steps) > 1
            yield cell, self._ended(cell, None if beside else outcome_of(cell, error))
        except Exception as error:
            yield cell, self._ended(cell, outcome_of(cell, error))

    def _ended(self, cell: Cell, found: Row | OSError | None) -> Row | OSError | None:
        """Remove a cell and return its result, with the peak number of concurrent cells."""
        del self._steps[cell]
        most = self._most.pop(cell)
        return found | {"cells_at_once": most} if isinstance(found, dict) else found

    def room(self, cell: Cell) -> int:
        """Return how many cells like this one can run at once. Call it before any is running.

        On a CUDA device, the memory of one cell is measured over a few steps.
        """
        if self.at_once is not None:
            return self.at_once
        if resolve_device(self.device).type != "cuda":
            return 1
        try:
            detector = make_detector(cell, self.device)
            images = material_of(cell, detector).train
            needed = detector.fit_memory(images, cuda_graphs=self.cuda_graphs)
        except Exception:
            # The cell will report the error itself.
            return 1
        if needed is None:
            return 1
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(resolve_device(self.device))
        return cells_that_fit(free // self.neighbours, needed)


def cells_that_fit(free_bytes: int, bytes_each: int) -> int:
    """Return how many cells fit in the device's free memory, from 1 to `MOST`."""
    return max(1, min(MOST, int(_MEMORY_SHARE * free_bytes) // max(bytes_each, 1)))


def alike(cell: Cell) -> Cell:
    """Return a key shared by cells that need the same time and memory.

    It includes everything except class, category and seed.
    """
    return replace(cell, class_=None, category=None, seed=0)
