"""Connections to Ray clusters."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from adcgan.errors import InputError, MissingExtraError

_ALLOWED = (
    "--ray must be HOST:PORT of a running Ray cluster; auto, for the one that runs here or else a "
    "local one; or local"
)
_SECONDS_TO_ANSWER = 10.0
_STDERR = 2
# Ray's log files have its messages. It prints lost workers to standard output, where the result
# belongs.
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_RAY_ADDRESS = "RAY_ADDRESS"


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a Ray cluster, or start a local one, for the duration of the block.

    Parameters
    ----------
    address : str
        HOST:PORT of a running cluster; "auto", for the cluster that $RAY_ADDRESS names or that
        runs on this machine, else a local one; or "local", for one of this process alone, which
        ends with the block. An open connection is reused and stays open.

    Yields
    ------
    module
        ``ray``.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    InputError
        There is no cluster at `address`, or it runs another version of Ray.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    with _silence():
        _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """Return ``ray``, or raise `MissingExtraError`."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--ray needs Ray: pip install 'adcgan[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    """Connect, or start a cluster on this machine."""
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "auto":
        address = os.environ.get(_RAY_ADDRESS) or address
    if address == "auto":
        try:
            ray.init(address=address, **options)
        except ConnectionError:
            address = "local"
        else:
            return
    if address == "local":
        ray.init(address=address, include_dashboard=False, **options)
        return
    _check_reachable(address)
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:
        # Ray ends the program where nothing it knows answers; here that is a wrong address.
        reason = "no Ray cluster answers" if isinstance(error, SystemExit) else str(error)
        raise _refused(address, reason) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Send standard error nowhere: Ray's native part says there that it was told to say less."""
    kept = os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)


def _check_reachable(address: str) -> None:
    """Refuse, within seconds, an address where nothing listens: Ray itself takes minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise _refused(address, "")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _refused(address, str(error)) from None


def _refused(address: str, reason: str) -> InputError:
    """Return the error for an address that leads to no cluster."""
    why = f": {' '.join(reason.split())}" if reason else ""
    return InputError(f"{_ALLOWED}. Got {address!r} instead{why}.")
