"""The service's addresses, as an ASGI application."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

import adcgan
from adcgan.errors import InputError
from adcgan.scoring import Scorer
from adcgan.serve import schema
from adcgan.serve.bodies import read_uploads
from adcgan.serve.guard import Guard
from adcgan.serve.limits import Limits, RefusalError
from adcgan.serve.overlay import COLOURS, OPACITY
from adcgan.serve.service import Heatmap, Service

PAGE = Path(__file__).parent / "page"
_FILE = {"type": "string", "format": "binary"}
_FILES = {"type": "object", "properties": {"file": {"type": "array", "items": _FILE}}}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _FILES},
        "application/octet-stream": {"schema": _FILE},
        "image/*": {"schema": _FILE},
    },
}
_REFUSALS = {
    400: "The body is malformed or holds no file",
    401: "The key is missing or wrong",
    408: "The body did not arrive in time",
    413: "The body, a file or the number of files exceeds the limit",
    415: "The body is neither multipart form data nor an image",
    422: "No image can be read, or a parameter is out of range",
    503: "No room, no time, not ready, or shutting down; retry after Retry-After seconds",
}


def create_app(
    scorer: Scorer, limits: Limits | None = None, *, api_key: str | None = None
) -> Guard:
    """Return the scoring service as an ASGI application.

    Parameters
    ----------
    scorer : Scorer
        A fitted detector or what `adcgan.load` returned. It is called by one thread at a time.
    limits : Limits, optional
        How much the service accepts.
    api_key : str, optional
        The key that ``/v1/…`` and ``/metrics`` need: printable ASCII without spaces.

    Returns
    -------
    Guard
        The application. Set its `draining` to finish requests in progress and refuse new ones.

    Raises
    ------
    InputError
        The key is empty, or not printable ASCII.
    """
    if api_key is not None and not re.fullmatch("[!-~]+", api_key):
        raise InputError(
            "The API key must be one or more characters of printable ASCII, without spaces."
        )
    service = Service(scorer, limits or Limits())
    app = FastAPI(
        title="adcgan",
        version=adcgan.__version__,
        description="Scores images for anomalies.",
        lifespan=lambda _: service.running(),
        docs_url=None,
        redoc_url=None,
    )
    guard = Guard(app, service.metrics, api_key)
    _add_errors(app)
    _add_model(app, service)
    _add_health(app, service, guard)
    _add_page(app)
    return guard


def _add_errors(app: FastAPI) -> None:
    """Answer every error as ``{"error": …}``."""

    @app.exception_handler(RefusalError)
    async def refuse(_: Request, error: RefusalError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def fail(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        message = f"The '{first['loc'][-1]}' parameter is wrong: {first['msg']}"
        return JSONResponse({"error": message}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        # Nobody reads it, but it is counted, as nginx does.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        # The guard logs the exception.
        return JSONResponse({"error": "Internal error; see the server's log"}, 500)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for the API's description."""
    return {
        status: {"model": schema.ErrorAnswer, "description": _REFUSALS[status]}
        for status in statuses
    }


def _add_model(app: FastAPI, service: Service) -> None:
    """Add the addresses under ``/v1/``."""
    limits = service.limits

    @app.post(
        "/v1/score",
        response_model=schema.ScoreAnswer,
        responses=_refusals(*_REFUSALS),
        openapi_extra={"requestBody": _BODY},
        summary="Score images",
    )
    async def score(
        request: Request,
        fpr: Annotated[
            float | None,
            Query(gt=0, lt=1, description="Decide by this false-positive budget."),
        ] = None,
        heatmap: Annotated[
            Heatmap, Query(description="Add a heatmap to each image, finished or in layers.")
        ] = "false",
        heatmap_top: Annotated[
            float | None,
            Query(
                gt=0,
                lt=float("inf"),
                description="The anomaly value for the top colour; by default each image's own.",
            ),
        ] = None,
        name: Annotated[  # noqa: ARG001  read with the body
            str, Query(description="A name for an image that is the whole body.")
        ] = "image",
    ) -> Response:
        """Score one or more files: multipart form data, or one image as the body.

        An image that cannot be read gets a row with its error. If none can be read, the answer
        is 422.
        """
        with service.requests.hold(1), service.held.hold() as hold:
            reading = read_uploads(request, limits, hold)
            try:
                uploads = await asyncio.wait_for(reading, limits.body_seconds)
            except asyncio.TimeoutError:
                raise RefusalError(
                    408,
                    f"The body did not arrive within {limits.body_seconds:g} s (--body-seconds)",
                ) from None
            answer = await service.score(uploads, hold, fpr=fpr, heatmap=heatmap, top=heatmap_top)
        return JSONResponse(answer)

    @app.get(
        "/v1/model",
        response_model=schema.ModelAnswer,
        responses=_refusals(401, 503),
        summary="The model and the limits",
    )
    async def model() -> Response:
        """Describe the model, the scores of held-out normal images, and the service's limits."""
        await service.when_warm()
        colours = {"heatmap_colours": list(COLOURS), "heatmap_opacity": OPACITY}
        return JSONResponse({**service.model.describe(), **colours, "limits": asdict(limits)})

    @app.get(
        "/v1/drift", responses=_refusals(401), summary="Are the images like those learned from?"
    )
    async def drift() -> schema.DriftAnswer:
        """Compare the last images scored, whoever sent them, with the held-out normal ones."""
        found = service.drift()
        warning = found.warning(f"The last {found.n} images scored here")
        return schema.DriftAnswer(**asdict(found), warning=warning)


def _add_health(app: FastAPI, service: Service, guard: Guard) -> None:
    """Add the addresses for programs that watch the service."""

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Alive?")
    async def healthz() -> schema.StatusAnswer:
        """Say that the process answers."""
        return schema.StatusAnswer(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses=_refusals(503), summary="Ready?")
    async def readyz() -> schema.StatusAnswer:
        """Say whether images can be scored: once the model is warm, and until the shutdown."""
        if guard.draining:
            raise RefusalError(503, "The service is shutting down", retry_after=5)
        if not service.ready:
            raise RefusalError(503, "The model is not ready", retry_after=1)
        return schema.StatusAnswer(status="ready")

    @app.get("/metrics", response_class=Response, summary="Metrics for Prometheus")
    async def metrics() -> Response:
        """Return all metrics in Prometheus's text format."""
        text = service.metrics.text(service.drift())
        return Response(text, media_type=service.metrics.media_type)


def _add_page(app: FastAPI) -> None:
    """Add the web page, which loads nothing from elsewhere."""

    async def index(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def docs(_: Request) -> Response:
        return FileResponse(PAGE / "docs.html")

    app.add_route("/", index)
    app.add_route("/docs", docs)
    app.mount("/page", StaticFiles(directory=PAGE))
