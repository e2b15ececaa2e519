"""Many cells: each done once, whatever is killed on the way."""

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
    """What a sweep came to.

    Attributes
    ----------
    rows : list of dict
        One for each cell asked for, in that order: of this run, or of an earlier one.
    n_skipped : int
        Cells that were finished already.
    """

    rows: list[Row]
    n_skipped: int

    @property
    def failed(self) -> list[Row]:
        """The rows of cells without a result."""
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
    """Run every cell that has no result yet, several at a time.

    Each row is appended to ``rows.jsonl`` when its cell is done. Killed at any moment and started
    again, a sweep skips what is finished and goes on with what was under way from its
    checkpoints. A cell that fails is a row with its error, and is tried again by the next run.

    Parameters
    ----------
    cells : sequence of Cell
        What to do.
    folder : Path
        For the rows and the runs under way; made if it is not there.
    workers : int or None
        Processes that compute cells; None for what suits the machine. On a Ray cluster, a limit.
    device : str, default="auto"
        Where to compute. "auto" spreads the cells over all CUDA devices.
    cuda_graphs : bool, optional
        Train by CUDA graphs, as in `adcgan.Detector.fit`.
    cells_at_once : int or None
        Most cells that one process trains in turn, a step of each at a time; not on a Ray cluster.
        None for as many as the memory of a CUDA device holds, 8 at most, where steps are
        captured, and one elsewhere.
    ray : str or None
        The address of a Ray cluster to compute on, or "auto".
    keep_models : bool, default=False
        Leave each trained model in ``cells/<key>``.
    progress : Progress, optional
        Where progress is reported; a bar when standard error is a terminal.

    Raises
    ------
    InputError
        The folder holds something else, another sweep is at work in it, the device is not there,
        or the data set or one of its masks cannot be read.
    MissingExtraError
        Ray is asked for and not installed.
    OSError
        The system failed: the disk is full, for example. Cells under way are stopped; the same
        call goes on with them.
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
            "The 'cells_at_once' parameter must be None on a Ray cluster, where each task is one "
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
    """Yield each cell with its row and the number of cells still under way."""
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
    """Write every row as it comes, and remove the run that it is the result of."""
    progress = progress or terminal_progress()
    progress.start("Benchmark", total)
    failed = 0
    try:
        for cell, row, running in rows:
            file.append(row)
            failed += row["error"] is not None
            # A failed run keeps its checkpoint, for the next attempt.
            if row["error"] is None and not keep_models:
                shutil.rmtree(cell_folder(cell, folder), ignore_errors=True)
            progress.advance(running=running, failed=failed)
    finally:
        progress.finish()


def _prepare_data(cells: Sequence[Cell]) -> None:
    """Decode the images once, before many processes want them, and say early if they lack."""
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
    """Refuse a folder that holds something else than a sweep."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out must be a folder. {str(folder)!r} is a file.")
    if folder.is_dir() and not (folder / ROWS_FILE).exists() and holds_something(folder):
        raise InputError(
            f"--out must be a new or empty folder, or one of an earlier benchmark. "
            f"{str(folder)!r} has other files in it and no {ROWS_FILE}."
        )


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder for runs under way once there are none."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
