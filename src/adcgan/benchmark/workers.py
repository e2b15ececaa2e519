"""Worker processes on this machine that run one cell after another, or several in turns.

If a worker is killed, for lack of memory or by a person, only the cell that causes this is lost:
the worker's cells are retried, each alone. Workers end with their parent process, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from adcgan.benchmark.cells import Cell
from adcgan.benchmark.rows import Row
from adcgan.benchmark.runner import error_row, images_alike
from adcgan.benchmark.turns import Turns, alike
from adcgan.detectors import DETECTORS
from adcgan.detectors.pretrained import features_kept
from adcgan.threads import share_the_cores

LOG_FILE = "workers.log"
# How often to start a cell whose process keeps being killed.
ATTEMPTS = 2
# Memory of one process that trains the paper's full width.
_BYTES_PER_WORKER = 2 << 30
_WORKERS_PER_GPU = 2
_STDERR = 2
_THREADS = "OMP_NUM_THREADS"


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
    neighbours = -(-count // len(devices))
    pool = [
        _Worker(
            (folder, devices[i % len(devices)], cuda_graphs, cells_at_once, neighbours), threads
        )
        for i in range(count)
    ]
    try:
        while waiting or any(worker.cells for worker in pool):
            while _begin(waiting, pool, tries):
                pass
            busy = [worker for worker in pool if worker.cells]
            ready = wait([worker.connection for worker in busy])
            for worker in (worker for worker in busy if worker.connection in ready):
                for cell, row in worker.finished():
                    tries[cell] += 1
                    if row is None and tries[cell] < ATTEMPTS:
                        waiting.append(cell)
                        continue
                    row = row or error_row(
                        cell,
                        f"its process was killed {ATTEMPTS} times, possibly for lack of memory",
                    )
                    under_way = sum(len(worker.cells) for worker in pool)
                    room = sum(max(worker.room, len(worker.cells)) for worker in pool)
                    yield cell, row, min(room, len(waiting) + under_way)
    finally:
        for worker in pool:
            worker.kill()


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

    def __init__(self, circumstances: tuple[Any, ...], threads: int) -> None:
        self.circumstances, self.threads = circumstances, threads
        self.cells: list[Cell] = []
        self.room = 1
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self, cell: Cell) -> None:
        """Send a cell to the process, starting a new one if necessary."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, *self.circumstances))
            with _threads_of_children(self.threads):
                self._process.start()
            # Closing their end here makes a process that dies show up as end of file.
            theirs.close()
        if not self.cells:
            self.room = 1
        self.cells.append(cell)
        # If the process died while idle, the cell counts as tried.
        with suppress(BrokenPipeError):
            self.connection.send(cell)

    def finished(self) -> list[tuple[Cell, Row | None]]:
        """Return new results: a cell with its row, or all cells with None if the process died.

        None also stands for a cell that ran out of memory next to others. The list is empty if the
        process only reported more room.

        Raises
        ------
        OSError
            The system failed in the process: the disk is full, for example.
        """
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.kill()
            lost, self.cells = self.cells, []
            return [(cell, None) for cell in lost]
        if isinstance(message, int):
            self.room = message
            return []
        cell, found = message
        self.cells.remove(cell)
        if isinstance(found, OSError):
            raise found
        return [(cell, found)]

    def kill(self) -> None:
        """Kill the process immediately."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
            self._process = None


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Limit the threads of processes started in the block, unless the user has set a limit."""
    if _THREADS in os.environ:
        yield
        return
    # Libraries read this when they are loaded, so it has to be set before.
    os.environ[_THREADS] = str(threads)
    try:
        yield
    finally:
        del os.environ[_THREADS]


def _work(
    connection: Connection,
    folder: Path,
    device: str,
    cuda_graphs: bool | None,
    at_once: int | None,
    neighbours: int,
) -> None:
    """Run cells until the other side closes the connection."""
    # Ctrl-C reaches the whole process group; only the parent reacts to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share_the_cores()
    try:
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        connection.send((connection.recv(), error))
        return
    os.dup2(log, _STDERR)
    turns = Turns(folder, device, cuda_graphs, at_once, neighbours)
    with features_kept():
        while True:
            # If idle, wait for a cell; otherwise check whether there is another.
            while not turns or connection.poll():
                try:
                    cell = connection.recv()
                except EOFError:
                    return
                if not turns:
                    connection.send(turns.room(cell))
                turns.begin(cell)
            for done in turns.take():
                connection.send(done)


def _end_with_parent() -> None:
    """Wait for the parent process to end, then end too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
