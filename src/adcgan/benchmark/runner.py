"""Running a cell of the benchmark: load, train and evaluate, with one row as the result."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

import adcgan
from adcgan.benchmark.audit import WARNING, audited_images, released_assessment
from adcgan.benchmark.categories import category_images
from adcgan.benchmark.cells import Cell, make_detector
from adcgan.benchmark.evaluation import evaluate
from adcgan.benchmark.metrics import auroc, summary
from adcgan.benchmark.protocol import (
    Partition,
    development_partition,
    official_partition,
    subset,
)
from adcgan.benchmark.rows import Row
from adcgan.data import DATASETS, ImageSet, load_named
from adcgan.detectors import ADCGAN, Detector
from adcgan.errors import DivergedError, InputError, MissingExtraError, system_failure
from adcgan.progress import Progress, silent
from adcgan.scoring import normality_score, variants
from adcgan.training import hardware, resolve_device, versions
from adcgan.training.runlog import RUN_FILE

CELLS_FOLDER = "cells"
_EXPECTED = (InputError, MissingExtraError, DivergedError)
_FIGURES = ("auroc", "auroc_ci95", "average_precision", "fpr95", "components", "variants")
# Additional fields in rows of images with defects.
_OF_DEFECTS = ("at_threshold", "defects", "pixels", "pixels_left_out")
# Fields that are empty in a row without a result.
_RESULTS = (
    *_FIGURES,
    *("parameters", "epochs", "n_train", "n_test", "seconds", "resumed", "device", "threads"),
    *("instructions", "precision", "cuda_graphs"),
)


@dataclass(frozen=True, eq=False)
class Material:
    """The images of one cell.

    Attributes
    ----------
    train : ImageSet
        Normal images without labels: everything that ``fit`` gets.
    evaluation : ImageSet
        Images labelled 1 (anomalous) and 0 (normal).
    unreadable : tuple of str
        Files of a folder that are in neither because they cannot be read.
    """

    train: ImageSet
    evaluation: ImageSet
    unreadable: tuple[str, ...] = ()


# Images of the cells that are running in this process.
_under_way: WeakValueDictionary[Cell, Material] = WeakValueDictionary()


def run_cell(
    cell: Cell,
    folder: Path,
    *,
    device: str = "auto",
    cuda_graphs: bool | None = None,
    progress: Progress = silent,
) -> Row:
    """Train and evaluate one detector; see `cell_in_steps`."""
    steps = cell_in_steps(cell, folder, device=device, cuda_graphs=cuda_graphs, progress=progress)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        row: Row = end.value
        return row


def cell_in_steps(
    cell: Cell,
    folder: Path,
    *,
    device: str = "auto",
    cuda_graphs: bool | None = None,
    progress: Progress = silent,
) -> Generator[None, None, Row]:
    """Train and evaluate one detector, as an iterator with one training step per item.

    The results depend only on the cell, apart from rounding on different hardware. The run is kept
    in ``folder/cells/<key>`` and resumes from its checkpoint if there is one.

    Parameters
    ----------
    cell : Cell
        The cell to run.
    folder : Path
        The sweep's folder.
    device : str, default="auto"
        Where to compute.
    cuda_graphs : bool, optional
        Whether to train with CUDA graphs, as in `adcgan.Detector.fit`.
    progress : Progress, optional
        Where to report training progress; by default, nowhere.

    Yields
    ------
    None
        After every training step, as in `adcgan.Detector.fitting`.

    Returns
    -------
    dict
        The row as JSON-compatible values, with ``error`` None.

    Raises
    ------
    InputError, MissingExtraError, DivergedError
        As for `adcgan.Detector.fit` and `adcgan.load_named`.
    """
    start = time.perf_counter()
    run_dir = cell_folder(cell, folder)
    resumed = run_dir.exists()
    detector = make_detector(cell, device)
    material = material_of(cell, detector)
    yield from detector.fitting(
        material.train, run_dir=run_dir, resume=True, progress=progress, cuda_graphs=cuda_graphs
    )
    if cell.protocol == "released":
        figures = _released_figures(cell, detector)
    else:
        figures = _figures(cell, detector, material)
    return {
        "key": cell.key,
        **cell.identity(),
        "class_name": cell.class_name,
        **figures,
        "parameters": detector.get_params(),
        "epochs": getattr(detector, "epochs", None),
        "n_train": len(material.train),
        "seconds": round(time.perf_counter() - start, 3),
        "resumed": resumed,
        **_circumstances(detector.device),
        **_in_force(run_dir),
        **_remarks(cell),
        "error": None,
        "traceback": None,
    }


def attempt(
    cell: Cell, folder: Path, device: str = "auto", cuda_graphs: bool | None = None
) -> Row | OSError:
    """Run a cell; if it fails, return a row with the error.

    Returns
    -------
    dict or OSError
        The row, or the result of `outcome_of`.
    """
    try:
        return run_cell(cell, folder, device=device, cuda_graphs=cuda_graphs)
    except Exception as error:
        return outcome_of(cell, error)


def outcome_of(cell: Cell, error: Exception) -> Row | OSError:
    """Return the row of a cell that ended with an error.

    If it is a system error that would affect the other cells too (such as a full disk or missing
    permission), return the error instead. It is returned, not raised, because it has to reach the
    process of the sweep.
    """
    failure = system_failure(error)
    # Other cells may need less memory, or have their files.
    if failure is not None and failure.errno not in (errno.ENOMEM, errno.ENOENT):
        return failure
    text = " ".join(f"{type(error).__name__}: {error}".split())
    # Expected errors are self-explanatory and need no traceback.
    trace = None if isinstance(error, _EXPECTED) else "".join(traceback.format_exception(error))
    return error_row(cell, text, trace)


def error_row(cell: Cell, error: str, trace: str | None = None) -> Row:
    """Return the row of a cell without a result."""
    return {
        "key": cell.key,
        **cell.identity(),
        "class_name": cell.class_name,
        **dict.fromkeys(_RESULTS),
        **dict.fromkeys(() if cell.category is None else (*_OF_DEFECTS, "unreadable")),
        "commit": commit(),
        "versions": versions(),
        "date": _now(),
        **_remarks(cell),
        "error": error,
        "traceback": trace,
    }


def cell_folder(cell: Cell, folder: Path) -> Path:
    """Return the folder of a cell's run while it is in progress."""
    return folder / CELLS_FOLDER / cell.key


def images_alike(cell: Cell) -> Cell:
    """Return a key shared by cells with the same images; the seed matters if it draws images."""
    return replace(cell, seed=0) if cell.max_train is None else cell


def material_of(cell: Cell, detector: Detector) -> Material:
    """Load the images of a cell, or share those of a running cell in this process.

    Sharing keeps only one copy of the pixels in memory and on the device.
    """
    shared = images_alike(cell)
    material = _under_way.get(shared)
    if material is None:
        material = _under_way[shared] = _material(cell, detector)
    return material


def _material(cell: Cell, detector: Detector) -> Material:
    """Load the images of a cell."""
    if cell.category is not None:
        train, test = category_images(cell.category, detector)
        unreadable = tuple(item.name for part in (train, test) for item in part.skipped)
        if cell.max_train is not None:
            train = train.select(subset(np.arange(len(train)), cell.max_train, cell.seed))
        return Material(train, test, unreadable)
    # The development split must not even load the test images.
    return cell_images(
        cell,
        _load(cell, detector, "train"),
        _load(cell, detector, "test") if cell.split == "test" else None,
    )


def _load(cell: Cell, detector: Detector, split: str) -> ImageSet:
    """Load one split of a cell's data set."""
    return load_named(cell.dataset, split, image_size=detector.image_size)


def cell_images(cell: Cell, train: ImageSet, test: ImageSet | None) -> Material:
    """Select the images of a cell.

    Parameters
    ----------
    cell : Cell
        The cell.
    train : ImageSet
        The training split, with labels.
    test : ImageSet or None
        The test split, with labels; None if the cell's split is "development".
    """
    assert train.labels is not None
    rules: dict[str, Any] = {
        "scheme": cell.scheme,
        "class_": cell.class_,
        "max_train": cell.max_train,
        "seed": cell.seed,
    }
    if cell.split == "development":
        part, source = development_partition(train.labels, **rules), train
    else:
        assert test is not None
        assert test.labels is not None
        part, source = official_partition(train.labels, test.labels, **rules), test
    return Material(_unlabelled(train.select(part.train)), _judged(source, part))


def _unlabelled(images: ImageSet) -> ImageSet:
    """Return the images without their classes."""
    return replace(images, labels=None, class_names=None)


def _judged(source: ImageSet, part: Partition) -> ImageSet:
    """Return the test images, labelled as normal or anomalous."""
    everything = len(part.evaluation) == len(source)
    # A slice shares the pixels of a memory-mapped file; an index copies them.
    images = source.select(slice(None) if everything else part.evaluation)
    return replace(images, labels=part.labels, class_names=["normal", "anomalous"])


def _figures(cell: Cell, detector: Detector, material: Material) -> Row:
    """Return the detector's metrics on labelled images."""
    images = material.evaluation
    metrics = evaluate(detector, images).metrics
    figures = {name: metrics[name] for name in _FIGURES} | {"n_test": len(images)}
    if cell.category is None:
        return figures
    figures |= {name: metrics[name] for name in _OF_DEFECTS}
    return figures | {"unreadable": list(material.unreadable)}


def _released_figures(cell: Cell, detector: Detector) -> Row:
    """Return the metrics of the released evaluation, including anomalous training images."""
    assert isinstance(detector, ADCGAN)
    assert cell.class_ is not None
    train, test = (_load(cell, detector, split) for split in ("train", "test"))
    images = audited_images(test, train, cell.scheme, cell.class_)
    labels, components = released_assessment(detector, *images, seed=cell.seed)
    metrics = summary(labels, normality_score(components, detector.lam, detector.rho))
    names = ("auroc", "auroc_ci95", "average_precision", "fpr95")
    return {
        **{name: metrics[name] for name in names},
        "components": _aurocs(labels, components),
        "variants": _aurocs(labels, variants(components, detector.lam, detector.rho)),
        "n_test": len(labels),
    }


def _aurocs(
    labels: NDArray[np.int64], scores: Mapping[str, NDArray[np.float64]]
) -> dict[str, float]:
    """Return the AUROC of each named score."""
    return {name: auroc(labels, values) for name, values in scores.items()}


def _circumstances(device: str) -> Row:
    """Return the date, hardware and version of the code that made the row."""
    found = hardware(resolve_device(device))
    return {
        "device": f"{found['device']} ({found['name']})",
        "threads": torch.get_num_threads(),
        "instructions": found["instructions"],
        "commit": commit(),
        "versions": versions(),
        "date": _now(),
    }


def _in_force(run_dir: Path) -> Row:
    """Return the precision and the use of CUDA graphs with which a run was started."""
    run = json.loads((run_dir / RUN_FILE).read_text(encoding="utf-8"))
    in_force: Row = run["in_force"]
    return in_force


def _remarks(cell: Cell) -> Row:
    """Return the source of the images, and notes to the figures."""
    source, notes = "scikit-learn", []
    if cell.category is not None:
        source = "folder"
    elif DATASETS[cell.dataset].hub_id is not None:
        source = "$ADCGAN_DATA" if os.environ.get("ADCGAN_DATA") else "hub"
    if cell.dataset == "cifar10" and source == "$ADCGAN_DATA":
        notes.append("CIFAR-10 from $ADCGAN_DATA, a local copy that may be re-encoded")
    if cell.protocol == "released":
        notes.insert(0, WARNING)
    return {"data_source": source, "note": "; ".join(notes)}


def _now() -> str:
    """Return the date and time in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def commit() -> str:
    """Return the commit of the source if it is a checkout, with ``-dirty`` if files differ.

    Otherwise, return the package's version.
    """
    here = Path(adcgan.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    try:
        # Ignore an environment that lies inside another project's checkout.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return f"adcgan {adcgan.__version__}"
