"""What surrounds every request: the key, the counters, the security headers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adcgan.serve.limits import RefusalError
from adcgan.serve.metrics import Metrics

# Paths with a counter of their own, and prefixes of those that need the key.
PATHS = ("/", "/v1/score", "/v1/model", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")
PROTECTED = ("/v1/", "/metrics")
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# How long the rest of a refused body is read and dropped, so that a client that sends everything
# before it reads can read why.
_LINGER_SECONDS = 1.0

_log = logging.getLogger("adcgan.serve")
_access = logging.getLogger("adcgan.serve.access")


class Guard:
    """Wraps the application.

    It checks the key before a byte of the body is read, counts and times requests, adds the
    security headers, logs uncaught exceptions, and lets clients that are refused while they still
    send read why.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    api_key : str or None
        The key that `PROTECTED` paths need; None lets everyone in.

    Attributes
    ----------
    draining : bool
        Set it to answer the requests in progress and refuse to score new ones.
    active : int
        Requests in progress.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None = None) -> None:
        self.draining = False
        self.active = 0
        self._app = app
        self._metrics = metrics
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the ASGI entry point."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        exchange = _Exchange(scope, receive, send, closing=self.draining)
        start = time.perf_counter()
        self.active += 1
        self._metrics.in_progress.inc()
        try:
            await self._answer(path, exchange)
        finally:
            self.active -= 1
            self._metrics.in_progress.dec()
            seconds = time.perf_counter() - start
            label = path if path in PATHS else "/page" if path.startswith("/page/") else "other"
            self._metrics.seconds.labels(label).observe(seconds)
            # 499 as in nginx: the client went away before there was an answer.
            status = exchange.status or 499
            self._metrics.requests.labels(label, str(status)).inc()
            raw = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
            _access.info("%s %s %d %.0f ms", scope["method"], raw, status, 1000 * seconds)

    async def _answer(self, path: str, exchange: _Exchange) -> None:
        app = self._app
        try:
            self._check(path, exchange.headers)
        except RefusalError as refusal:
            if refusal.status == 401:
                refusal.headers["WWW-Authenticate"] = "Bearer"
            app = JSONResponse(refusal.body, refusal.status, refusal.headers)
        try:
            await app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            # The application has already answered 500.
            _log.exception("Request failed")

    def _check(self, path: str, headers: Headers) -> None:
        """Refuse requests without the key, and new images while draining."""
        if self._key is not None and path.startswith(PROTECTED):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            given = headers.get("x-api-key", token.strip() if scheme.lower() == "bearer" else "")
            if not hmac.compare_digest(given.encode("latin-1"), self._key):
                raise RefusalError(
                    401,
                    "This service needs its key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                )
        if self.draining and path == "/v1/score":
            raise RefusalError(503, "The service is shutting down", retry_after=5)


class _Exchange:
    """One request and its response, as they pass the guard."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, closing: bool) -> None:
        self.scope = scope
        self.headers = headers = Headers(scope=scope)
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._closing = closing
        length = headers.get("content-length", "0")
        self._unread = "transfer-encoding" in headers or length.strip("0") != ""
        self._lingering = False

    async def receive(self) -> Message:
        """Pass on a message from the client."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        """Pass on a message to the client."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._lingering = self._unread
            headers = MutableHeaders(scope=message)
            headers.update(SECURITY_HEADERS)
            # A page's files have an ETag, by which the browser asks whether its copy is current.
            headers.setdefault("cache-control", "no-cache" if "etag" in headers else "no-store")
            if self._unread or self._closing:
                headers["connection"] = "close"
        elif self._lingering and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._read_out(), _LINGER_SECONDS)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _read_out(self) -> None:
        """Drop what the client still sends."""
        while self._unread:
            await self.receive()
