"""Cells that one process trains in turn, a step of each at a time.

On a CUDA device the steps of each cell go to a stream of its own, and Python is at the next cell
while they are computed. A small network does not fill a device, so several are done sooner.
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

# Most cells at once where no number is given. What they gain is measured by scripts/gpu_check.
MOST = 8
# The share of a device's free memory that training may take; images and scoring take the rest.
_MEMORY_SHARE = 0.7


class Turns:
    """The cells under way in this process.

    Parameters
    ----------
    folder : Path
        The sweep's folder.
    device : str
        Where to compute.
    cuda_graphs : bool or None
        Whether to train by CUDA graphs, as in `adcgan.Detector.fit`.
    at_once : int or None
        Most cells under way. None: one; where steps are captured on a CUDA device, up to `MOST`,
        as many as its memory holds.
    neighbours : int, default=1
        Processes that share the device, this one included.
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
        """Let a cell take part from the next round on."""
        self._steps[cell] = cell_in_steps(
            cell, self.folder, device=self.device, cuda_graphs=self.cuda_graphs
        )
        self._most[cell] = 0
        for each in self._steps:
            self._most[each] = max(self._most[each], len(self._steps))

    def take(self) -> Iterator[tuple[Cell, Row | OSError | None]]:
        """Take a step of every cell; yield those that this has ended with what came out.

        A row, an error or not; why the system failed, as `adcgan.benchmark.runner.outcome_of`
        says; None for a cell that lacked memory beside others.
        """
        for cell in list(self._steps):
            yield from self._step(cell)

    def _step(self, cell: Cell) -> Iterator[tuple[Cell, Row | OSError | None]]:
        """Take a step of one cell; yield it if it has ended."""
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
        """Let go of a cell; return what came out, with the most cells under way meanwhile."""
        del self._steps[cell]
        most = self._most.pop(cell)
        return found | {"cells_at_once": most} if isinstance(found, dict) else found

    def room(self, cell: Cell) -> int:
        """Return how many cells like this one may be under way at once, to be asked before any is.

        On a CUDA device the memory that one takes is measured, by a few steps.
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
            # The cell itself will say what is wrong with it.
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
    """Return what cells have in common that take as much time and memory as this one.

    All but class, category and seed.
    """
    return replace(cell, class_=None, category=None, seed=0)
