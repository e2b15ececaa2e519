"""Processes on this machine that each compute one cell after another.

A process that is killed, for want of memory or by a person, costs the cell it was at and no
other. Processes end with the one that started them, however that one ends.
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

import torch

from adcgan.benchmark.cells import Cell
from adcgan.benchmark.rows import Row
from adcgan.benchmark.runner import attempt, error_row
from adcgan.detectors.pretrained import features_kept

LOG_FILE = "workers.log"
# How often a cell is started whose process keeps being killed.
ATTEMPTS = 2
# What one process takes that trains the paper's full width.
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
) -> Generator[tuple[Cell, Row, int], None, None]:
    """Compute cells in processes of this machine.

    Parameters
    ----------
    cells : sequence of Cell
        What to do.
    folder : Path
        The sweep's folder. What the processes say goes to ``workers.log`` in it.
    workers : int or None
        How many processes; None for what suits the machine.
    device : str
        "auto" spreads them over all CUDA devices; with more processes than devices, several
        share one.
    cuda_graphs : bool, optional
        Whether to train by CUDA graphs, as in `adcgan.Detector.fit`.

    Yields
    ------
    cell, row, running
        In the order they are done; `running` cells are under way at that moment.

    Raises
    ------
    OSError
        The system failed a cell: the disk is full, for example.
    """
    devices = _devices(device)
    count = min(len(cells), workers or default_workers(len(devices)))
    threads = max(1, available_cores() // count)
    waiting, tries = deque(cells), Counter[Cell]()
    pool = [
        _Worker((folder, devices[i % len(devices)], cuda_graphs), threads) for i in range(count)
    ]
    try:
        while waiting or any(worker.cell for worker in pool):
            for worker in pool:
                if worker.cell is None and waiting:
                    worker.start(waiting.popleft())
            busy = [worker for worker in pool if worker.cell]
            ready = wait([worker.connection for worker in busy])
            for worker in (worker for worker in busy if worker.connection in ready):
                cell, row = worker.finished()
                tries[cell] += 1
                if row is None and tries[cell] < ATTEMPTS:
                    waiting.append(cell)
                    continue
                row = row or error_row(
                    cell, f"its process was killed {ATTEMPTS} times; is memory short?"
                )
                yield cell, row, min(count, len(waiting) + sum(w.cell is not None for w in pool))
    finally:
        for worker in pool:
            worker.kill()


def default_workers(n_gpus: int = 1) -> int:
    """Return how many cells are computed at a time on this machine.

    With CUDA, 2 on each device. Otherwise one on each core, as far as the memory goes: several
    processes of one thread do more in a time than one process of several threads.
    """
    if torch.cuda.is_available():
        return _WORKERS_PER_GPU * n_gpus
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
    """Return the devices that cells are spread over."""
    if device == "auto" and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [device]


class _Worker:
    """One process, replaced when it was killed, and the cell it is at."""

    def __init__(self, circumstances: tuple[Path, str, bool | None], threads: int) -> None:
        self.circumstances, self.threads = circumstances, threads
        self.cell: Cell | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self, cell: Cell) -> None:
        """Hand over a cell, in a new process if there is none."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, *self.circumstances))
            with _threads_of_children(self.threads):
                self._process.start()
            # With their end closed here, a process that dies is read as the end of the file.
            theirs.close()
        self.cell = cell
        # If the process died while it had nothing to do, the cell counts as tried.
        with suppress(BrokenPipeError):
            self.connection.send(cell)

    def finished(self) -> tuple[Cell, Row | None]:
        """Return the cell and its row, or None if the process was killed.

        Raises
        ------
        OSError
            The system failed in the process: the disk is full, for example.
        """
        assert self.cell is not None
        cell, self.cell = self.cell, None
        try:
            found = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.kill()
            return cell, None
        if isinstance(found, OSError):
            raise found
        return cell, found

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
            self._process = None


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Limit the threads of processes started in the block, unless the user has."""
    if _THREADS in os.environ:
        yield
        return
    # Read by the libraries when they are loaded, so it has to be there before they are.
    os.environ[_THREADS] = str(threads)
    try:
        yield
    finally:
        del os.environ[_THREADS]


def _work(connection: Connection, folder: Path, device: str, cuda_graphs: bool | None) -> None:
    """Compute cells until the other side closes the connection."""
    # Ctrl-C reaches the whole group of processes; the one that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        connection.send(error)
        return
    os.dup2(log, _STDERR)
    with features_kept():
        while True:
            try:
                cell = connection.recv()
            except EOFError:
                return
            connection.send(attempt(cell, folder, device, cuda_graphs))


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end as well."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
