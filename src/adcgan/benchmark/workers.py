"""Worker processes on this machine that run one cell after another, or several in turns.

If a worker is killed, for lack of memory or by a person, only the cell that causes this is lost:
the worker's cells are retried, each alone. Workers end with their parent process, however it ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from adcgan.benchmark.categories import Category
from adcgan.benchmark.cells import Cell, Setting
from adcgan.benchmark.rows import Row
from adcgan.benchmark.runner import error_row, images_alike
from adcgan.benchmark.turns import Turns, alike
from adcgan.detectors import DETECTORS
from adcgan.detectors.pretrained import features_kept
from adcgan.processes import Child, Parent
from adcgan.threads import share_the_cores

LOG_FILE = "workers.log"
# How often to start a cell whose process keeps being killed.
ATTEMPTS = 2
# Memory of one process that trains the paper's full width.
_BYTES_PER_WORKER = 2 << 30
_WORKERS_PER_GPU = 2


def run_local(
    cells: Sequence[Cell],
    folder: Path,
    workers: int | None,
    device: str,
    cuda_graphs: bool | None = None,
    cells_at_once: int | None = None,
) -> Generator[tuple[Cell, Row, int], None, None]:
    """Run cells in processes on this machine.

    The cells that one process runs in turns share detector, data set and settings; cells with the
    same images come first.

    Parameters
    ----------
    cells : sequence of Cell
        The cells to run.
    folder : Path
        The sweep's folder. Output of the processes goes to its ``workers.log``.
    workers : int or None
        Number of processes; None chooses a number for this machine.
    device : str
        "auto" spreads them over all CUDA devices; if there are more processes than devices,
        several share one.
    cuda_graphs : bool, optional
        Whether to train with CUDA graphs, as in `adcgan.Detector.fit`.
    cells_at_once : int or None
        Maximum number of cells that a process runs in turns, as in `adcgan.benchmark.turns.Turns`.

    Yields
    ------
    cell, row, running
        In order of completion; `running` is the number of cells running or about to run.

    Raises
    ------
    OSError
        A system error ended a cell, such as a full disk.
    """
    devices = _devices(device)
    captured = cuda_graphs is not False and all(
        DETECTORS[cell.detector].capturable for cell in cells
    )
    count = min(len(cells), workers or default_workers(len(devices), captured=captured))
    threads = max(1, available_cores() // count)
    waiting, tries = deque(cells), Counter[Cell]()
    shared = {
        "folder": str(folder),
        "cuda_graphs": cuda_graphs,
        "at_once": cells_at_once,
        "neighbours": -(-count // len(devices)),
    }
    answers: SimpleQueue[tuple[_Worker, bytes | None]] = SimpleQueue()
    pool = [
        _Worker(_bytes(**shared, device=devices[i % len(devices)]), threads, answers)
        for i in range(count)
    ]
    try:
        while waiting or any(worker.cells for worker in pool):
            while _begin(waiting, pool, tries):
                pass
            try:
                # Without a time limit Ctrl-C would not end the wait on Windows.
                worker, answer = answers.get(timeout=1)
            except Empty:
                continue
            for cell, row in worker.finished(answer):
                tries[cell] += 1
                if row is None and tries[cell] < ATTEMPTS:
                    waiting.append(cell)
                    continue
                row = row or error_row(
                    cell, f"its process was killed {ATTEMPTS} times, possibly for lack of memory"
                )
                under_way = sum(len(worker.cells) for worker in pool)
                room = sum(max(worker.room, len(worker.cells)) for worker in pool)
                yield cell, row, min(room, len(waiting) + under_way)
    finally:
        for worker in pool:
            worker.child.kill()


def _begin(waiting: deque[Cell], pool: Sequence[_Worker], tries: Counter[Cell]) -> bool:
    """Start a waiting cell on the worker with the fewest; return False if none has room."""
    left = len(waiting) + sum(len(worker.cells) for worker in pool)
    fair = -(-left // len(pool))
    for worker in sorted(pool, key=lambda worker: len(worker.cells)):
        cell = _next(waiting, worker, tries) if len(worker.cells) < fair else None
        if cell is not None:
            waiting.remove(cell)
            worker.start(cell)
            return True
    return False


def _next(waiting: deque[Cell], worker: _Worker, tries: Counter[Cell]) -> Cell | None:
    """Return the waiting cell that a worker should start now, if any."""
    if not worker.cells:
        return waiting[0] if waiting else None
    # A cell whose process was killed runs alone, so that it cannot harm other cells again.
    if len(worker.cells) >= worker.room or any(tries[cell] for cell in worker.cells):
        return None
    kind, shared = alike(worker.cells[0]), {images_alike(cell) for cell in worker.cells}
    fitting = [cell for cell in waiting if alike(cell) == kind and not tries[cell]]
    return min(fitting, key=lambda cell: images_alike(cell) not in shared, default=None)


def default_workers(n_gpus: int = 1, *, captured: bool = False) -> int:
    """Return the default number of processes on this machine.

    With CUDA, 1 per device if the steps of all cells are captured, because it then runs several
    cells, and otherwise 2. Without CUDA, one per core, as far as memory permits: several
    single-threaded processes have a higher throughput than one process with several threads.
    """
    if torch.cuda.is_available():
        return n_gpus if captured else _WORKERS_PER_GPU * n_gpus
    cores = available_cores()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return cores
    return max(1, min(cores, memory // _BYTES_PER_WORKER))


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices(device: str) -> list[str]:
    """Return the devices over which cells are spread."""
    if device == "auto" and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [device]


class _Worker:
    """A process, replaced if it is killed, with its current cells and its room for cells.

    It reports its room once it has started the first cell.
    """

    def __init__(
        self, first: bytes, threads: int, answers: SimpleQueue[tuple[_Worker, bytes | None]]
    ) -> None:
        self.child = Child(
            main,
            first,
            lambda answer: answers.put((self, answer)),
            {"OMP_NUM_THREADS": str(threads)},
        )
        self.cells: list[Cell] = []
        self.room = 1

    def start(self, cell: Cell) -> None:
        """Send a cell to the process."""
        if not self.cells:
            self.room = 1
        self.cells.append(cell)
        # If the process died while idle, the cell counts as tried.
        self.child.send(_bytes(**asdict(cell)))

    def finished(self, answer: bytes | None) -> list[tuple[Cell, Row | None]]:
        """Return new results: a cell with its row, or all cells with None if the process died.

        None also stands for a cell that ran out of memory next to others. The list is empty if the
        process only reported more room.

        Raises
        ------
        OSError
            The system failed in the process: the disk is full, for example.
        """
        if answer is None:
            self.child.kill()
            lost, self.cells = self.cells, []
            return [(cell, None) for cell in lost]
        message = json.loads(answer)
        if "failure" in message:
            raise OSError(*message["failure"])
        if "room" in message:
            self.room = message["room"]
            return []
        cell = next(cell for cell in self.cells if cell.key == message["key"])
        self.cells.remove(cell)
        return [(cell, message["row"])]


def _bytes(**message: Any) -> bytes:
    # The path in a system error may be bytes.
    return json.dumps(message, default=os.fsdecode).encode()


def main() -> None:
    """Run the cells that the parent sends."""
    parent = Parent()
    try:
        _work(parent, **json.loads(parent.messages.get()))
    except OSError as error:
        parent.send(_bytes(failure=(error.errno, error.strerror, error.filename)))


def _work(parent: Parent, folder: str, **circumstances: Any) -> None:
    share_the_cores()
    log = os.open(Path(folder, LOG_FILE), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    turns = Turns(Path(folder), **circumstances)
    with features_kept():
        while True:
            # If idle, wait for a cell; otherwise check whether there is another.
            while not turns or not parent.messages.empty():
                cell = _cell(**json.loads(parent.messages.get()))
                if not turns:
                    parent.send(_bytes(room=turns.room(cell)))
                turns.begin(cell)
            for cell, found in turns.take():
                if isinstance(found, OSError):
                    raise found
                parent.send(_bytes(key=cell.key, row=found))


def _cell(
    settings: Sequence[tuple[str, Setting]], category: dict[str, str] | None, **fields: Any
) -> Cell:
    return Cell(
        settings=tuple((name, value) for name, value in settings),
        category=None if category is None else Category(**category),
        **fields,
    )
