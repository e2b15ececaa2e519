"""Experiment trackers, through Accelerate: settings at the start, then figures, then the status."""

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
    """Return the names of the installed experiment trackers."""
    from accelerate.tracking import get_available_trackers

    return [str(tracker.value) for tracker in get_available_trackers()]


def check_trackers(trackers: Sequence[str], folder: Path | None) -> None:
    """Raise an error for trackers that are unknown, not installed or have nowhere to write.

    Raises
    ------
    InputError
        A name is not in `TRACKERS`, or there is no folder.
    MissingExtraError
        The tracker's package is not installed; the message says how to install it.
    """
    for tracker in trackers:
        if tracker not in TRACKERS:
            raise InputError(
                f"The 'trackers' parameter must be among {', '.join(TRACKERS)}. "
                f"Got {tracker!r} instead."
            )
        if tracker not in available_trackers():
            raise MissingExtraError(
                f"The tracker {tracker!r} is not installed: pip install {tracker}"
            )
    if trackers and folder is None:
        raise InputError("The 'trackers' parameter needs 'run_dir', the folder to write to.")


@contextmanager
def tracked(
    accelerator: Accelerator,
    trackers: Sequence[str],
    folder: Path | None,
    parameters: Mapping[str, Any],
) -> Iterator[None]:
    """Let the trackers record everything logged through `accelerator` within the block.

    TensorBoard writes to ``<folder>/adcgan``. W&B writes to `folder` and uploads according to its
    own settings (``WANDB_MODE=offline`` disables uploads). MLflow writes to ``<folder>/mlflow.db``,
    or to ``<folder>/mlruns`` if SQLAlchemy is not installed, unless a tracking URI is already set.

    Parameters
    ----------
    accelerator : Accelerator
        Accelerator created with these trackers.
    trackers : sequence of str
        Names that passed `check_trackers`; if empty, nothing is recorded.
    folder : Path or None
        The run's folder; required if there are trackers.
    parameters : mapping
        Settings of the run: numbers, strings, booleans and None.
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
    """Return whether all trackers accept `value` unchanged."""
    return isinstance(value, (int, float, str))


def _options(trackers: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the start-up options of each tracker, whose run is named after the folder."""
    name = folder.resolve().name
    options: dict[str, dict[str, Any]] = {"wandb": {"dir": str(folder), "name": name}}
    if "mlflow" in trackers:
        options["mlflow"] = {
            "run_name": name,
            "logging_dir": (folder.resolve() / "mlartifacts").as_uri(),
            # If the caller has an open run, nest this one in it.
            "nested_run": _mlflow().active_run() is not None,
        }
    return options


def _mlflow() -> Any:
    """Return the mlflow package, untyped because it may not be installed."""
    return import_module("mlflow")


def _local_mlflow(folder: Path) -> AbstractContextManager[None]:
    """Return a context in which MLflow writes to `folder`, unless a tracking URI is set."""
    told = _mlflow().is_tracking_uri_set() or _mlflow().active_run() is not None
    return nullcontext() if told else _mlflow_in(folder.resolve())


@contextmanager
def _mlflow_in(folder: Path) -> Iterator[None]:
    """Let MLflow write to `folder` within the block, and restore its settings afterwards."""
    # MLflow recommends a database, but its slim package does not include database support.
    database = find_spec("sqlalchemy") is not None and find_spec("alembic") is not None
    store = f"sqlite:///{folder / 'mlflow.db'}" if database else (folder / "mlruns").as_uri()
    # Setting the URI also sets an environment variable, which must not outlive the run.
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
    """End the trackers' runs with a status that marks them as failed."""
    for tracker in accelerator.trackers:
        if tracker.name == "mlflow":
            _mlflow().end_run("FAILED")
        elif tracker.name == "wandb":
            tracker.tracker.finish(exit_code=1)
        else:
            tracker.finish()
    accelerator.trackers = []
