"""The service's addresses, as an ASGI application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from adcgan.serve.bodies import Upload, read_uploads
from adcgan.serve.guard import Guard
from adcgan.serve.limits import Hold, Limits, RefusalError
from adcgan.serve.overlay import COLOURS, OPACITY
from adcgan.serve.service import Heatmap, Service

PAGE = Path(__file__).parent / "page"
_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "array", "items": _FILE}},
            }
        },
        "application/octet-stream": {"schema": _FILE},
        "image/*": {"schema": _FILE},
    },
}
_REFUSALS = {
    400: "The body is not well-formed or holds no file",
    401: "The key is missing or wrong",
    408: "The body did not arrive in time",
    413: "The body, a file or the number of files is beyond the limit",
    415: "Another type than multipart form data or an image",
    422: "No image can be read, or a parameter is out of range",
    503: "No room, no time, or shutting down; Retry-After says when to come again",
}


def create_app(
    scorer: Scorer, limits: Limits | None = None, *, api_key: str | None = None
) -> Guard:
    """Return the scoring service as an ASGI application.

    Parameters
    ----------
    scorer : Scorer
        A fitted detector or what `adcgan.load` returned. It is asked by one thread at a time.
    limits : Limits, optional
        How much is taken; the defaults if left out.
    api_key : str, optional
        The key that ``/v1/…`` and ``/metrics`` ask for: printable ASCII without a space.

    Returns
    -------
    Guard
        The application. Set its `draining` to finish what is under way and take nothing new.

    Raises
    ------
    InputError
        The key is empty, or not of printable ASCII.
    """
    if api_key is not None and not re.fullmatch("[!-~]+", api_key):
        raise InputError("The API key must be one or more characters of printable ASCII, no space.")
    service = Service(scorer, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="adcgan",
        version=adcgan.__version__,
        description="Scores images for anomalies.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    guard = Guard(app, service.metrics, api_key)
    _add_errors(app)
    _add_model(app, service)
    _add_drift(app, service)
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
        headers = dict(error.headers) if error.headers else None
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def mistaken(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        message = f"The '{first['loc'][-1]}' parameter is wrong: {first['msg']}"
        return JSONResponse({"error": message}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        # Nobody reads it; the counters have it as nginx would.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        # The guard logs the exception.
        return JSONResponse({"error": "Internal error; the server's log says more"}, 500)


def _add_model(app: FastAPI, service: Service) -> None:
    """Add what asks the model."""
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": schema.ErrorAnswer, "description": text}
        for status, text in _REFUSALS.items()
    }

    @app.post(
        "/v1/score",
        response_model=schema.ScoreAnswer,
        responses=refusals,
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
            Heatmap, Query(description="A heatmap with each image, finished or in layers.")
        ] = "false",
        heatmap_top: Annotated[
            float | None,
            Query(
                gt=0,
                lt=float("inf"),
                description="The anomaly value for the top colour; each image's own if left out.",
            ),
        ] = None,
        name: Annotated[  # noqa: ARG001  read with the body
            str, Query(description="What to call an image that is sent as the whole body.")
        ] = "image",
    ) -> Response:
        """Score one file or many: multipart form data, or one image as the body.

        An image that cannot be read is a row with its error. If that is all of them, the answer
        is 422.
        """
        with service.requests.hold(1), service.held.hold() as hold:
            uploads = await _read_in_time(request, service.limits, hold)
            answer = await service.score(uploads, hold, fpr=fpr, heatmap=heatmap, top=heatmap_top)
        return JSONResponse(answer)

    @app.get(
        "/v1/model",
        response_model=schema.ModelAnswer,
        responses={401: refusals[401], 503: refusals[503]},
        summary="The model and the limits",
    )
    async def model() -> Response:
        """Describe the model, the scores of held-out normal images, and what the service takes."""
        await service.when_warm()
        answer = {
            **service.model.describe(),
            "heatmap_colours": list(COLOURS),
            "heatmap_opacity": OPACITY,
            "limits": asdict(service.limits),
        }
        return JSONResponse(answer)


def _add_drift(app: FastAPI, service: Service) -> None:
    """Add what watches the images."""

    @app.get(
        "/v1/drift",
        response_model=schema.DriftAnswer,
        responses={401: {"model": schema.ErrorAnswer, "description": _REFUSALS[401]}},
        summary="Are the images like those learned from?",
    )
    async def drift() -> Response:
        """Compare the last images scored, for whomever, with the held-out normal ones."""
        return JSONResponse(schema.DriftAnswer.of(service.drift()).model_dump())


async def _read_in_time(request: Request, limits: Limits, hold: Hold) -> list[Upload]:
    """Read a request's files, or refuse it (408) when they take too long to come."""
    try:
        return await asyncio.wait_for(read_uploads(request, limits, hold), limits.body_seconds)
    except asyncio.TimeoutError:
        raise RefusalError(
            408, f"The body did not arrive within {limits.body_seconds:g} s (--body-seconds)"
        ) from None


def _add_health(app: FastAPI, service: Service, guard: Guard) -> None:
    """Add what machines that watch the service ask for."""

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", response_model=schema.StatusAnswer, summary="Alive?")
    async def healthz() -> Response:
        """Say that the process answers."""
        return JSONResponse({"status": "ok"})

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        response_model=schema.StatusAnswer,
        responses={503: {"model": schema.ErrorAnswer, "description": "Not ready"}},
        summary="Ready?",
    )
    async def readyz() -> Response:
        """Say whether images can be scored: not before the model is warm, nor at the end."""
        if guard.draining:
            raise RefusalError(503, "The service is shutting down", retry_after=5)
        if not service.ready:
            raise RefusalError(503, "The model is not ready", retry_after=1)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=Response, summary="Metrics for Prometheus")
    async def metrics() -> Response:
        """Return all counters in Prometheus's text format."""
        service.metrics.show_drift(service.drift())
        return Response(service.metrics.text(), media_type=service.metrics.media_type)


def _add_page(app: FastAPI) -> None:
    """Add the page for people. Its files ask for nothing from elsewhere."""
    fresh = {"cache-control": "no-cache"}

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(PAGE / "index.html", headers=fresh)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers=fresh)

    app.mount("/page", _Page(directory=PAGE))


class _Page(StaticFiles):
    """The page's files, asked for anew by their ETag so that an update is seen at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """See `StaticFiles`."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response
