"""Sweeps over many cells, each run once, even if processes are killed."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from adcgan.benchmark.categories import prepare_categories
from adcgan.benchmark.cells import Cell, make_detector
from adcgan.benchmark.rows import ROWS_FILE, Row, RowsFile, latest, read_rows
from adcgan.benchmark.runner import CELLS_FOLDER, cell_folder
from adcgan.benchmark.workers import run_local
from adcgan.data import load_named
from adcgan.data.system_files import holds_something
from adcgan.errors import InputError
from adcgan.progress import Progress, terminal_progress
from adcgan.training import resolve_device


@dataclass(frozen=True)
class Outcome:
    """The outcome of a sweep.

    Attributes
    ----------
    rows : list of dict
        One row per requested cell, in the same order, from this run or an earlier one.
    n_skipped : int
        Number of cells that were already finished.
    """

    rows: list[Row]
    n_skipped: int

    @property
    def failed(self) -> list[Row]:
        """Rows of cells without a result."""
        return [row for row in self.rows if row["error"] is not None]


def sweep(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int | None = None,
    device: str = "auto",
    cuda_graphs: bool | None = None,
    cells_at_once: int | None = None,
    ray: str | None = None,
    keep_models: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Run all cells that have no result yet, several at a time.

    Each row is appended to ``rows.jsonl`` when its cell is done. A sweep can be killed at any time:
    when it is started again, it skips finished cells and resumes the others from their checkpoints.
    A cell that fails gives a row with its error, and the next run retries it.

    Parameters
    ----------
    cells : sequence of Cell
        The cells to run.
    folder : Path
        Folder for the rows and unfinished runs, created if necessary.
    workers : int or None
        Number of processes; None chooses a number for this machine. On a Ray cluster, the maximum
        number of concurrent cells.
    device : str, default="auto"
        Device. "auto" spreads the cells over all CUDA devices.
    cuda_graphs : bool, optional
        Whether to train with CUDA graphs, as in `adcgan.Detector.fit`.
    cells_at_once : int or None
        Maximum number of cells that one process trains in turns, one step each; not available on a
        Ray cluster. None means one, or, if steps are captured, as many as fit in the memory of the
        CUDA device, up to 8.
    ray : str or None
        Address of a Ray cluster to use, or "auto".
    keep_models : bool, default=False
        Whether to keep each trained model in ``cells/<key>``.
    progress : Progress, optional
        Where to report progress. By default, a progress bar if standard error is a terminal.

    Raises
    ------
    InputError
        The folder contains something else, another sweep is using it, the device does not exist,
        or the data set or one of its masks cannot be read.
    MissingExtraError
        Ray is requested but not installed.
    OSError
        A system error occurred, such as a full disk. Running cells are stopped; the same call
        resumes them.
    """
    _check_folder(folder)
    if workers is not None and workers < 1:
        raise InputError(f"The 'workers' parameter must be at least 1. Got {workers} instead.")
    if cells_at_once is not None and cells_at_once < 1:
        raise InputError(
            f"The 'cells_at_once' parameter must be at least 1. Got {cells_at_once} instead."
        )
    if cells_at_once is not None and ray is not None:
        raise InputError(
            "The 'cells_at_once' parameter must be None on a Ray cluster, where each task runs one "
            f"cell. Got {cells_at_once} instead."
        )
    if ray is None:
        resolve_device(device)
        if cuda_graphs:
            for cell in cells:
                make_detector(cell, device).check_cuda_graphs()
    with RowsFile(folder) as file:
        done = {row["key"] for row in read_rows(folder) if row["error"] is None}
        waiting = [cell for cell in dict.fromkeys(cells) if cell.key not in done]
        if waiting:
            _prepare_data(waiting)
            rows = _computed(waiting, folder, workers, device, cuda_graphs, cells_at_once, ray)
            with closing(rows):
                _record(rows, len(waiting), folder, file, keep_models, progress)
            _remove_if_empty(folder / CELLS_FOLDER)
    results = {row["key"]: row for row in latest(read_rows(folder))}
    wanted = list(dict.fromkeys(cell.key for cell in cells))
    return Outcome([results[key] for key in wanted], len(wanted) - len(waiting))


def _computed(
    cells: Sequence[Cell],
    folder: Path,
    workers: int | None,
    device: str,
    cuda_graphs: bool | None,
    cells_at_once: int | None,
    ray: str | None,
) -> Generator[tuple[Cell, Row, int], None, None]:
    """Yield each cell with its row and the number of cells still running."""
    if ray is None:
        return run_local(cells, folder, workers, device, cuda_graphs, cells_at_once)
    from adcgan.benchmark.ray_sweep import run_on_ray

    return run_on_ray(cells, folder, workers, device, ray, cuda_graphs)


def _record(
    rows: Iterator[tuple[Cell, Row, int]],
    total: int,
    folder: Path,
    file: RowsFile,
    keep_models: bool,
    progress: Progress | None,
) -> None:
    """Write each row as it arrives and remove the corresponding run."""
    progress = progress or terminal_progress()
    progress.start("Benchmark", total)
    failed = 0
    try:
        for cell, row, running in rows:
            file.append(row)
            failed += row["error"] is not None
            # A failed run keeps its checkpoint for the next attempt.
            if row["error"] is None and not keep_models:
                shutil.rmtree(cell_folder(cell, folder), ignore_errors=True)
            progress.advance(running=running, failed=failed)
    finally:
        progress.finish()


def _prepare_data(cells: Sequence[Cell]) -> None:
    """Decode the images once before many processes need them, and report missing ones early."""
    prepare_categories(
        (cell.category, make_detector(cell)) for cell in cells if cell.category is not None
    )
    wanted = {
        (cell.dataset, split, make_detector(cell).image_size)
        for cell in cells
        if cell.category is None
        for split in (("train", "test") if cell.split == "test" else ("train",))
    }
    for dataset, split, image_size in sorted(wanted, key=str):
        load_named(dataset, split, image_size=image_size)


def _check_folder(folder: Path) -> None:
    """Raise `InputError` if the folder contains anything but a sweep."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out must be a folder. {str(folder)!r} is a file.")
    if folder.is_dir() and not (folder / ROWS_FILE).exists() and holds_something(folder):
        raise InputError(
            f"--out must be a new or empty folder, or the folder of an earlier benchmark. "
            f"{str(folder)!r} contains other files and no {ROWS_FILE}."
        )


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder for unfinished runs if it is empty."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
