"""The same service on Ray Serve: many replicas behind one address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import adcgan
from adcgan.errors import InputError, MissingExtraError
from adcgan.serve.app import create_app
from adcgan.serve.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


def build(
    model: str | Path,
    *,
    num_replicas: int = 1,
    num_cpus: float = 1,
    limits: Limits | None = None,
    api_key: str | None = None,
) -> Any:
    """Return the service as an application of Ray Serve, for ``ray.serve.run``.

    Each replica loads the model, batches the requests that reach it, and has limits and metrics
    of its own. Scores are those of ``adcgan serve``.

    Parameters
    ----------
    model : str or Path
        An .onnx file or a model folder, at a path that this machine and every replica can see.
    num_replicas : int
        At least 1.
    num_cpus : float
        Cores that Ray reserves for each replica, above 0.
    limits : Limits, optional
        Limits of each replica, except those on connections and heads, which Ray sets itself.
    api_key : str, optional
        See `create_app`.

    Returns
    -------
    ray.serve.Application

    Raises
    ------
    MissingExtraError
        Ray Serve is not installed.
    InputError
        The model does not exist, or `num_replicas` is out of range.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("This needs Ray Serve: pip install 'adcgan[ray]'") from error
    path = Path(model).resolve()
    if not path.exists():
        raise InputError(f"There is no model folder or .onnx file {str(model)!r}.")
    if num_replicas < 1:
        raise InputError(
            f"The 'num_replicas' parameter must be at least 1. Got {num_replicas!r} instead."
        )
    limits = limits or Limits()
    replica = serve.ingress(_Replica(path, limits, api_key))(_Scoring)
    deployment = serve.deployment(
        name="adcgan",
        num_replicas=num_replicas,
        # Ray's default, a few, would leave nothing to batch.
        max_ongoing_requests=limits.max_requests,
        ray_actor_options={"num_cpus": num_cpus},
    )
    return deployment(replica).bind()


class _Scoring:
    """The deployment, which only wraps the application."""


class _Replica:
    """The ASGI application of one replica, which loads its model where it runs."""

    def __init__(self, path: Path, limits: Limits, api_key: str | None) -> None:
        self._settings = path, limits, api_key
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            path, limits, api_key = self._settings
            # As `server.run` does.
            Image.MAX_IMAGE_PIXELS = limits.pixels
            self._app = create_app(adcgan.load(path), limits, api_key=api_key)
        await self._app(scope, receive, send)
