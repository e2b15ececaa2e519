"""What every request passes on its way in and out: the key, the counters, the last word."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adcgan.serve.limits import RefusalError
from adcgan.serve.metrics import Metrics

# Paths that have a counter of their own, and those that the key protects.
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
# How long a client that still sends is listened to, unheeded, so that it can read its refusal.
_LINGER_SECONDS = 1.0

_log = logging.getLogger("adcgan.serve")
_access = logging.getLogger("adcgan.serve.access")


class Guard:
    """Wraps the application.

    It checks the key before a byte of the body is read, counts and times requests, adds the
    security headers, logs what nobody caught, and lets clients that are refused while they still
    send read why.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    api_key : str or None
        What `PROTECTED` paths ask for; None lets everyone in.

    Attributes
    ----------
    draining : bool
        Set once to answer what is under way and refuse to score anything new.
    active : int
        Requests being answered.
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
        try:
            self._check(path, exchange.scope)
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except RefusalError as refusal:
            headers = refusal.headers
            if refusal.status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            await exchange.respond(refusal.status, refusal.body, headers)
        except Exception:
            # The application has answered 500 before it let this through.
            _log.exception("Request failed")

    def _check(self, path: str, scope: Scope) -> None:
        """Refuse who has no key, and new work while draining."""
        if self._key is not None and path.startswith(PROTECTED):
            given = _key_of(scope["headers"])
            if not hmac.compare_digest(given, self._key):
                raise RefusalError(
                    401,
                    "This service needs its key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                )
        if self.draining and path == "/v1/score":
            raise RefusalError(503, "The service is shutting down", retry_after=5)


class _Exchange:
    """One request and its response, as the guard watches them pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, closing: bool) -> None:
        self.scope = scope
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._closing = closing
        names = {name for name, _ in scope["headers"]}
        length = dict(scope["headers"]).get(b"content-length", b"0")
        self._unread = b"transfer-encoding" in names or length.strip(b"0") != b""
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
            await self._send({**message, "headers": self._headers(message)})
        elif self._lingering and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._read_out(), _LINGER_SECONDS)
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._send(message)

    async def respond(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        """Answer with JSON."""
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json", **headers}
        headers["content-length"] = str(len(content))
        coded = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": coded})
        await self.send({"type": "http.response.body", "body": content})

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        """Return the response's headers and ours."""
        headers = list(message.get("headers", []))
        headers += [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
        if not any(name.lower() == b"cache-control" for name, _ in headers):
            headers.append((b"cache-control", b"no-store"))
        if self._unread or self._closing:
            headers.append((b"connection", b"close"))
        return headers

    async def _read_out(self) -> None:
        """Drop what the client still sends."""
        while self._unread:
            await self.receive()


def _key_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the key that a request brings, empty if none."""
    for name, value in headers:
        if name == b"x-api-key":
            return value
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return b""
