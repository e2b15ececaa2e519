"""Experiment trackers, through Accelerate: settings at the start, figures on the way, an end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adcgan.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from accelerate import Accelerator

TRACKERS = ("tensorboard", "wandb", "mlflow")
PROJECT = "adcgan"


def available_trackers() -> list[str]:
    """Return the names of the experiment trackers that are installed."""
    from accelerate.tracking import get_available_trackers

    return [str(tracker.value) for tracker in get_available_trackers()]


def check_trackers(trackers: Sequence[str], folder: Path | None) -> None:
    """Refuse trackers that are unknown, not installed, or have nowhere to write.

    Raises
    ------
    InputError
        A name is none of `TRACKERS`, or there is no folder.
    MissingExtraError
        The tracker's package is not installed; the message says how to get it.
    """
    for tracker in trackers:
        if tracker not in TRACKERS:
            raise InputError(
                f"The 'trackers' parameter must name some of {', '.join(TRACKERS)}. "
                f"Got {tracker!r} instead."
            )
        if tracker not in available_trackers():
            raise MissingExtraError(
                f"The tracker {tracker!r} is not installed: pip install {tracker}"
            )
    if trackers and folder is None:
        raise InputError("The 'trackers' parameter needs 'run_dir', where the trackers write.")


@contextmanager
def tracked(
    accelerator: Accelerator,
    trackers: Sequence[str],
    folder: Path | None,
    parameters: Mapping[str, Any],
) -> Iterator[None]:
    """Have the trackers record what is logged through `accelerator` while the block runs.

    TensorBoard writes to ``<folder>/adcgan``. W&B writes to `folder` and goes where its own
    settings say (``WANDB_MODE=offline`` keeps it here). MLflow writes to ``<folder>/mlflow.db``, or
    ``<folder>/mlruns`` where SQLAlchemy is not installed, unless a tracking URI was set before.

    Parameters
    ----------
    accelerator : Accelerator
        Made with these trackers.
    trackers : sequence of str
        Names that passed `check_trackers`; none leaves the block alone.
    folder : Path or None
        The run's folder; there is one if there are trackers.
    parameters : mapping
        What the run was started with: numbers, text, truth values and None.
    """
    if not trackers or not accelerator.is_main_process:
        yield
        return
    assert folder is not None
    settings = {key: value if _plain(value) else str(value) for key, value in parameters.items()}
    mlflow_store = _local_mlflow(folder) if "mlflow" in trackers else nullcontext()
    with mlflow_store:
        accelerator.init_trackers(PROJECT, config=settings, init_kwargs=_options(trackers, folder))
        try:
            yield
        except BaseException:
            _end_as_failed(accelerator)
            raise
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def _plain(value: object) -> bool:
    """Say whether every tracker takes `value` as it is."""
    return isinstance(value, (int, float, str))


def _options(trackers: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each tracker is started with: its run has the name of the folder."""
    name = folder.resolve().name
    options: dict[str, dict[str, Any]] = {"wandb": {"dir": str(folder), "name": name}}
    if "mlflow" in trackers:
        options["mlflow"] = {
            "run_name": name,
            "logging_dir": (folder.resolve() / "mlartifacts").as_uri(),
            # Inside a run that the caller has open, this one is a part of it.
            "nested_run": _mlflow().active_run() is not None,
        }
    return options


def _mlflow() -> Any:
    """Return the package, which has no types where it is not installed."""
    return import_module("mlflow")


def _local_mlflow(folder: Path) -> AbstractContextManager[None]:
    """Return a block in which MLflow writes into `folder`, unless it was told where to write."""
    told = _mlflow().is_tracking_uri_set() or _mlflow().active_run() is not None
    return nullcontext() if told else _mlflow_in(folder.resolve())


@contextmanager
def _mlflow_in(folder: Path) -> Iterator[None]:
    """Let MLflow write into `folder` while the block runs, and forget it afterwards."""
    # A database is what MLflow recommends; its small package comes without the means for one.
    database = find_spec("sqlalchemy") is not None and find_spec("alembic") is not None
    store = f"sqlite:///{folder / 'mlflow.db'}" if database else (folder / "mlruns").as_uri()
    # Setting the address sets a variable of the environment too, which must not outlive the run.
    kept = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    _mlflow().set_tracking_uri(store)
    try:
        yield
    finally:
        _mlflow().set_tracking_uri(None)
        for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
            del os.environ[key]
        os.environ.update(kept)


def _end_as_failed(accelerator: Accelerator) -> None:
    """End the trackers' runs so that nobody takes them for finished ones."""
    for tracker in accelerator.trackers:
        if tracker.name == "mlflow":
            _mlflow().end_run("FAILED")
        elif tracker.name == "wandb":
            tracker.tracker.finish(exit_code=1)
        else:
            tracker.finish()
    accelerator.trackers = []
