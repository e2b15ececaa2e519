"""The service as a process: a socket, uvicorn, and a shutdown that loses no answer."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from adcgan.errors import InputError
from adcgan.serve.guard import Guard
from adcgan.serve.limits import Limits

# How long the last bytes of a response may take to reach a client that reads slowly.
_FLUSH_SECONDS = 30.0


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Parameters
    ----------
    host : str
        A name or an address, IPv4 or IPv6.
    port : int
        0 to 65535; 0 picks a free port.

    Raises
    ------
    InputError
        The address cannot be used; the message says why.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"--host {host} cannot be used: {_why(error)}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # A port in use is found now, before a model is loaded.
        bound.listen(1)
    except OSError as error:
        bound.close()
        raise InputError(f"--port {port} on {host} cannot be used: {_why(error)}") from None
    return bound


def _why(error: Exception) -> str:
    """Return an operating system's reason."""
    return getattr(error, "strerror", None) or str(error)


def is_loopback(bound: socket.socket) -> bool:
    """Say whether only this machine can reach a bound socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def address(bound: socket.socket) -> str:
    """Return the URL of a bound socket for a browser on this machine."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: Guard,
    bound: socket.socket,
    limits: Limits,
    *,
    access_log: bool = False,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests accepted by then are answered.

    Until then Pillow's own limit on pixels is the service's, in the whole process.

    Parameters
    ----------
    app : Guard
        What `create_app` returned.
    bound : socket
        What `bind` returned.
    limits : Limits
        Those of the application.
    access_log : bool
        Print one line for each request on standard error.
    on_ready : callable, optional
        Called once the service accepts connections.
    """
    if access_log:
        logger = logging.getLogger("adcgan.serve.access")
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # They would print a line for each malformed request, which the metrics count anyway.
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        # h11 bounds the size of a request's head.
        http=partial(_Connection, limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(_FLUSH_SECONDS),
    )
    # Pillow applies it to an image inside another, as in icons.
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.pixels
    try:
        _Server(config, app, on_ready).run(sockets=[bound])
    finally:
        Image.MAX_IMAGE_PIXELS = before


class _Server(uvicorn.Server):
    """Answers requests in progress before it stops listening, and new ones with 503 meanwhile."""

    def __init__(
        self, config: uvicorn.Config, app: Guard, on_ready: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._guard = app
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Start to drain; a second Ctrl-C ends at once."""
        if self._guard.draining and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        self._guard.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Stop listening once every request in progress is answered."""
        if self._guard.draining and self._guard.active == 0:
            self.should_exit = True
        return await super().on_tick(counter)


class _Connection(H11Protocol):
    """A connection that a client cannot hold open by doing nothing.

    No setting of uvicorn limits the time for a request's head, or refuses connections that send
    none: ``results/notes/decisions.md`` says what gets through without this class.
    """

    def __init__(self, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._timers: list[asyncio.TimerHandle] = []
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it if there are too many."""
        if len(self.connections) >= self._limits.max_connections:
            self.transport = transport
            self._end_with(503, "Too many connections (--max-connections)", "Retry-After: 1\r\n")
            return
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        super().connection_lost(exc)
        for timer in [*self._timers, *filter(None, [self._head_timer])]:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Start the time for a head, or stop it once the head is complete."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Make sure that a closed connection ends even if the client reads nothing."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        self._end_with(400, msg.rstrip("."))

    def _watch_head(self) -> None:
        """Limit the time for a head, from its first byte or the start of the connection."""
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif waiting and self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.header_seconds, self._head_late)

    def _head_late(self) -> None:
        """End a connection whose request does not arrive."""
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            seconds = self._limits.header_seconds
            self._end_with(408, f"No request came within {seconds:g} s (--header-seconds)")

    def _end_with(self, status: int, message: str, headers: str = "") -> None:
        """Write a whole response, bypassing the application, and close."""
        if self.transport.is_closing():
            return
        if (
            self.cycle is not None
            and self.cycle.response_started
            and not self.cycle.response_complete
        ):
            # Another response is being sent: the client would take this for a part of it.
            self.transport.close()
            return
        body = json.dumps({"error": message})
        head = (
            f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        )
        self.transport.write((head + body).encode())
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Give the last bytes some time to go out."""
        self._timers.append(self.loop.call_later(_FLUSH_SECONDS, self.transport.abort))
